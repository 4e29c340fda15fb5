"""Refits: samples, losses over them, adapters, scores; and that a kill changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from byte_vocabularies import vocabulary
from lessons_of_text import lessons_of, sums

from paceline.trainer.learning.alignment import NONE
from paceline.trainer.models.decoder import Decoder, DecoderShape
from paceline.trainer.online.jobs import Job, JobFolder
from paceline.trainer.online.lora import adapt, merge
from paceline.trainer.online.refit import Lessons, RefitTask, digest, score
from paceline.trainer.online.samples import MAX_CONTEXT, MAX_ROWS, Sample, Sampler, collate
from paceline.trainer.training.loop import LoopSettings, train

TARGET, STUDENT = vocabulary(400), vocabulary(290)
FOREIGN = Sampler(TARGET, TARGET.size, student=STUDENT)
CUT_IDS = np.flatnonzero(np.arange(TARGET.size) % 20 != 7)
CUT = Sampler(TARGET, TARGET.size, cut=CUT_IDS)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def samples_of(sampler: Sampler, count: int, seed: int = 0) -> list[Sample]:
    found = [sampler.sample(lesson) for lesson in lessons_of(TARGET, sums(count, seed), seed)]
    return [sample for sample in found if sample is not None]


def small(vocab_size: int, *, unknown: bool = False) -> Decoder:
    return Decoder(
        DecoderShape(
            vocab_size=vocab_size,
            width=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            intermediate=48,
            unknown=unknown,
        )
    )


def test_a_sample_says_what_the_target_thought_in_the_students_tokens() -> None:
    (lesson,) = lessons_of(TARGET, sums(1))
    sample = FOREIGN.sample(lesson)
    assert sample is not None
    text = b"".join(STUDENT.bytes_of(token) or b"" for token in sample.ids.tolist()).decode()
    assert text == sums(1)[0]
    said = sample.ids[sample.first :]
    for row in range(len(sample)):
        named = {STUDENT.bytes_of(token) for token in sample.top_ids[row].tolist() if token != NONE}
        if sample.spells[row]:
            assert sample.top_ids[row, 0] == said[row]
            assert sample.top_log_probs[row, 0] == pytest.approx(np.log(0.9))
        if not sample.begins[row]:
            assert not named
            assert (sample.top_log_probs[row] == -np.inf).all()
    assert 0 < sample.spells.sum() <= sample.begins.sum() < len(sample)


def test_a_sample_of_a_cut_vocabulary_has_every_place_and_unknowns() -> None:
    (lesson,) = lessons_of(TARGET, sums(1))
    sample = CUT.sample(lesson)
    assert sample is not None
    assert len(sample) == len(lesson.tokens)
    assert sample.accepted.tolist() == lesson.accepted.tolist()
    for token, ours in zip((*lesson.context, *lesson.tokens), sample.ids.tolist(), strict=True):
        assert ours == len(CUT_IDS) if token % 20 == 7 else CUT_IDS[ours] == token
    batch = collate([sample], len(CUT_IDS))
    assert (batch.targets.tokens == -1).tolist() == [token % 20 == 7 for token in lesson.tokens]


def test_long_lessons_are_cut_and_empty_ones_are_none() -> None:
    (lesson,) = lessons_of(TARGET, [" ".join(sums(100))], context=600)
    sample = FOREIGN.sample(lesson)
    assert sample is not None
    assert (sample.first, len(sample)) == (MAX_CONTEXT, MAX_ROWS)
    (alone,) = lessons_of(TARGET, ["a"], context=0)
    assert FOREIGN.sample(alone) is None


def test_rows_of_a_batch_are_those_of_its_samples_alone() -> None:
    module, samples = small(STUDENT.size), samples_of(FOREIGN, 5)
    task = RefitTask(module, Lessons(samples))
    whole = task.loss(samples)
    parts = [task.loss([sample]) for sample in samples]
    assert whole.weight == sum(part.weight for part in parts)
    assert float(whole.total) == pytest.approx(sum(float(part.total) for part in parts), rel=1e-5)
    together = score(module, samples)
    assert together.right.tolist() == [int(score(module, [sample]).right[0]) for sample in samples]
    assert together.tokens.tolist() == [len(sample) for sample in samples]


def test_a_pass_goes_through_every_sample_once_and_the_next_in_another_order() -> None:
    samples = samples_of(FOREIGN, 40)
    task = RefitTask(small(STUDENT.size), Lessons(samples, batch_tokens=200))
    places = {id(sample): index for index, sample in enumerate(samples)}
    seen: list[int] = []
    steps = 0
    while len(seen) < 40:
        seen += [places[id(sample)] for sample in task.batch(steps)]
        steps += 1
    assert sorted(seen) == list(range(40))
    again = [places[id(sample)] for step in range(steps) for sample in task.batch(step)]
    after = [places[id(sample)] for step in range(steps, 2 * steps) for sample in task.batch(step)]
    assert again == seen
    assert sorted(after) == list(range(40))
    assert after != seen


@pytest.mark.parametrize("selection", ["all", "rejected_only", "tip", "paced", "on_policy", "length_cut", "drift_cut"])
@pytest.mark.parametrize("objective", ["hybrid", "ce", "forward_kl", "pld"])
def test_each_objective_and_selection_gives_a_finite_loss_and_gradient(objective: str, selection: str) -> None:
    module, samples = small(STUDENT.size), samples_of(FOREIGN, 4)
    loss = RefitTask(module, Lessons(samples, objective, (selection,))).loss(samples)
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert 0.0 < loss.weight <= sum(map(len, samples))
    assert all(bool(part.grad.isfinite().all()) for part in module.parameters() if part.grad is not None)


@pytest.mark.parametrize("sampler", [FOREIGN, CUT], ids=["foreign", "cut"])
@pytest.mark.parametrize("rank", [0, 4])
def test_what_is_learned_shows_on_lessons_that_were_held_out(tmp_path: Path, sampler: Sampler, rank: int) -> None:
    module = small(sampler.vocab_size, unknown=sampler is CUT)
    held_out = samples_of(sampler, 20, seed=1)
    before = score(module, held_out).acceptance
    if rank:
        adapt(module, rank, seed=0)
    settings = LoopSettings(num_steps=40, learning_rate=0.01 if not rank else 0.03, warmup_steps=5)
    train(module, RefitTask(module, Lessons(samples_of(sampler, 60))), settings, tmp_path)
    trained = score(module, held_out)
    if rank:
        merge(module)
        assert not [name for name, _ in module.named_parameters() if "lora" in name]
        assert score(module, held_out).right.tolist() == trained.right.tolist()
    assert trained.acceptance > before + 0.2


def test_adapters_leave_the_module_as_it_was_until_they_have_learned() -> None:
    module = small(STUDENT.size)
    ids = torch.arange(20)[None]
    plain = module(ids)
    adapt(module, 4, seed=3)
    assert torch.equal(module(ids), plain)
    assert {name.split(".")[-3] for name, part in module.named_parameters() if part.requires_grad} <= {
        "lora_A",
        "lora_B",
    }
    merge(module)
    assert torch.equal(module(ids), plain)
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in small(8).named_parameters()]


JOB = Job(number=3, parent="ab" * 32, num_learned=30, num_steps=40, seed=7, learned_tokens=900)


def test_a_job_is_read_back_as_it_was_and_is_gone_when_done(tmp_path: Path) -> None:
    folder, samples = JobFolder(tmp_path / "job"), samples_of(FOREIGN, 10)
    assert folder.unfinished() is None
    folder.begin(JOB, samples)
    found = JobFolder(tmp_path / "job").unfinished()
    assert found is not None
    assert found[0] == JOB
    assert digest(found[1]) == digest(samples)
    assert [len(sample) for sample in found[1]] == [len(sample) for sample in samples]
    folder.clear()
    assert folder.unfinished() is None
    assert list((tmp_path / "job").iterdir()) == []


@pytest.mark.parametrize("name", ["job.json", "samples.safetensors"])
def test_a_damaged_job_is_no_job(tmp_path: Path, name: str) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.begin(JOB, samples_of(FOREIGN, 3))
    path = tmp_path / "job" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert folder.unfinished() is None


RUN = textwrap.dedent("""
    import sys
    from pathlib import Path
    import torch
    from safetensors.torch import save_file
    from paceline.trainer.models.decoder import Decoder, DecoderShape
    from paceline.trainer.online.jobs import JobFolder
    from paceline.trainer.online.refit import Lessons, RefitTask
    from paceline.trainer.training.loop import LoopSettings, train

    torch.set_num_threads(1)
    folder = JobFolder(Path(sys.argv[1]))
    job, samples = folder.unfinished()
    module = Decoder(DecoderShape(vocab_size=290, width=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16,
                                  intermediate=48))
    steps = Path(sys.argv[1]) / "steps"

    def before_step():
        with steps.open("ab") as file:
            file.write(b".")

    lessons = Lessons(samples[: job.num_learned], "hybrid", ("tip",), 200, job.seed)
    settings = LoopSettings(num_steps=job.num_steps, learning_rate=0.01, warmup_steps=5, checkpoint_every=7)
    train(module, RefitTask(module, lessons, before_step), settings, folder.state)
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, sys.argv[2])
""")


def test_a_refit_that_is_killed_ends_with_the_weights_of_one_that_is_not(
    tmp_path: Path, killed_at: Callable[[subprocess.Popen[bytes], Path, int], None]
) -> None:
    samples = samples_of(FOREIGN, 40)
    results = []
    for name, kills in (("whole", []), ("killed", [23])):
        folder = JobFolder(tmp_path / name)
        folder.begin(JOB, samples)
        out = tmp_path / f"{name}.safetensors"
        command = [sys.executable, "-c", RUN, str(tmp_path / name), str(out)]
        for kill in kills:
            killed_at(subprocess.Popen(command), tmp_path / name / "steps", kill)
        assert subprocess.run(command, check=False, env=os.environ).returncode == 0
        results.append(out.read_bytes())
    assert results[0] == results[1]


@pytest.fixture
def killed_at() -> Callable[[subprocess.Popen[bytes], Path, int], None]:
    """SIGKILLs a process once it has written so many bytes to a file."""

    def kill(process: subprocess.Popen[bytes], path: Path, size: int) -> None:
        while not path.exists() or path.stat().st_size < size:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    return kill
