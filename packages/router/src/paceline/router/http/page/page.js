// The conversation: asks, shows the answer as it comes, and compares it with plain decoding.

import { generate, get } from "./api.js";
import { watchDeployment } from "./deployment.js";
import { save } from "./save.js";
import { Answer, bar, el, figuresOf, hint } from "./view.js";

const $ = (id) => document.getElementById(id);
const turns = []; // what was asked and answered: {prompt, run}
let running = null; // the AbortController of what runs

function bodyOf(prompt) {
  const messages = turns.flatMap((turn) => [
    { role: "user", content: turn.prompt }, { role: "assistant", content: turn.run.text }]);
  return {
    model: $("model").value, messages: [...messages, { role: "user", content: prompt }], stream: true,
    temperature: $("temperature").valueAsNumber, seed: $("seed").valueAsNumber, max_tokens: $("most").valueAsNumber,
    logprobs: true, top_logprobs: 5, paceline: { steps: true, ...JSON.parse($("drafters").value) },
  };
}

const runOf = (body) => ({ body, events: [], text: "", outcome: null });

/** Runs something that Escape stops. Whether it came to its end; if not, why goes into `note`. */
async function stoppable(note, work) {
  const mine = (running = new AbortController());
  $("stop").hidden = false;
  $("send").disabled = true;
  try {
    await work(mine.signal);
    return true;
  } catch (error) {
    note.append(el("p", { class: "problem", role: "alert" }, mine.signal.aborted ? "Stopped." : error.message));
    return false;
  } finally {
    running = null;
    $("stop").hidden = true;
    $("send").disabled = false;
  }
}

async function send() {
  const prompt = $("prompt").value.trim();
  if (!prompt || running || !$("ask").reportValidity()) return;
  if (!$("model").value) await loadModels();
  const run = runOf(bodyOf(prompt));
  const answer = new Answer(run, $("inspector"));
  const turn = el("article", { "aria-label": "Question and answer", "aria-busy": "true" }, el("p", { class: "asked" }, prompt), answer.node);
  $("turns").append(turn);
  $("prompt").value = "";
  turn.scrollIntoView({ block: "nearest" });
  const whole = await stoppable(turn, (signal) => generate(run, signal, (event) => {
    const low = innerHeight + scrollY > document.body.scrollHeight - 200;
    answer.add(event);
    if (low) $("ask").scrollIntoView({ block: "nearest" });
  }));
  answer.finish();
  turn.setAttribute("aria-busy", "false");
  if (run.events.length) {
    turns.push({ prompt, run });
    addButtons(turn, prompt, run, whole);
  } else {
    $("prompt").value = prompt;
  }
}

function addButtons(turn, prompt, run, whole) {
  const again = el("button", { type: "button", class: "again" }, "The same without speculation");
  const keep = el("button", { type: "button", class: "save" }, "Save as a replay");
  const verdict = el("div", { class: "verdict", role: "status" });
  let plain = null;
  again.onclick = async () => {
    if (running) return;
    verdict.replaceChildren();
    const other = runOf({ ...run.body, paceline: { steps: true, speculation: false } });
    const bars = race(run, other);
    verdict.append(bars.node);
    if (!(await stoppable(verdict, (signal) => generate(other, signal, bars.grow)))) return;
    plain = other;
    bars.grow();
    verdict.append(judged(run, plain));
  };
  keep.onclick = () => save({ prompt, run, plain });
  again.disabled = !whole;
  turn.append(el("div", { class: "row" }, again, keep), verdict);
}

/** Two bars on one scale of time, with speculation and without. */
function race(run, plain) {
  const rows = [["with speculation", run, "s0"], ["without", plain, "own"]].map(([name, one, colour]) => {
    const [strip, figure] = [bar(0, colour), el("span")];
    return { one, strip, figure, node: el("li", {}, el("span", {}, name), strip, figure) };
  });
  const length = (one) => figuresOf(one).seconds || (one.events.at(-1)?.at ?? 0) / 1000;
  const grow = () => {
    const longest = Math.max(...rows.map(({ one }) => length(one)), 0.001);
    for (const { one, strip, figure } of rows) {
      strip.lastChild.setAttribute("width", 100 * length(one) / longest);
      figure.textContent = `${length(one).toFixed(2)} s`;
    }
  };
  grow();
  return { grow, node: el("ul", { class: "race" }, ...rows.map(({ node }) => node)) };
}

function judged(run, plain) {
  const ids = (one) => one.events.flatMap((event) => event.tokens.map((token) => token.id)).join();
  if (run.text !== plain.text || ids(run) !== ids(plain)) {
    return el("p", { class: "problem" }, "The texts DIFFER. That is a bug in Paceline; please report it with a replay.");
  }
  const times = figuresOf(plain).seconds / figuresOf(run).seconds;
  return el("p", {}, el("b", {}, "Identical text"), `, token for token; ${times.toFixed(2)} × as fast with speculation.`);
}

async function loadModels() {
  const { data } = await get("/v1/models");
  const before = $("model").value;
  $("model").replaceChildren(...data.map(({ id }) => el("option", { value: id }, id)));
  if (data.some(({ id }) => id === before)) $("model").value = before;
}

/** Sets of drafters that can be asked for: the arms of this model. */
function offerDrafters(status) {
  const before = $("drafters").value;
  const sets = status.arms.filter((arm) => arm.model === $("model").value && !arm.max_nodes && arm.drafters.length);
  const choices = [["{}", `the router chooses (${status.policy})`], ['{"speculation":false}', "none"],
    ...sets.map(({ drafters }) => [JSON.stringify({ drafters }), drafters.join(" + ")])];
  if (choices.map(([value]) => value).join() === [...$("drafters").options].map(({ value }) => value).join()) return;
  $("drafters").replaceChildren(...choices.map(([value, name]) => el("option", { value }, name)));
  if (choices.some(([value]) => value === before)) $("drafters").value = before;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => {
  running?.abort();
  turns.length = 0;
  $("turns").replaceChildren();
  $("inspector").replaceChildren(hint());
  $("prompt").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && event.ctrlKey && $("ask").contains(event.target)) send();
});
$("inspector").append(hint());
await watchDeployment(async (status) => {
  if (!$("model").value) await loadModels().catch(() => {});
  offerDrafters(status);
});
