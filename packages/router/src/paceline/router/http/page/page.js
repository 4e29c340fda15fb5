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

const runOf = (body = null) => ({ body, events: [], text: "", outcome: null });

const problem = (text) => el("p", { class: "problem", role: "alert" }, text);

/** Runs something that Escape stops. Whether it came to its end; if not, why goes into `note`. */
async function stoppable(note, work) {
  const mine = (running = new AbortController());
  $("stop").hidden = false;
  $("send").disabled = true;
  try {
    await work(mine.signal);
    return true;
  } catch (error) {
    note.append(problem(mine.signal.aborted ? "Stopped." : error.message));
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
  const run = runOf();
  const answer = new Answer(run, $("inspector"));
  const turn = el("article", { "aria-busy": "true" }, el("p", { class: "asked" }, prompt), answer.node);
  $("turns").append(turn);
  $("prompt").value = "";
  turn.scrollIntoView({ block: "nearest" });
  const heard = (event) => {
    const low = turn.getBoundingClientRect().bottom < innerHeight;
    answer.add(event);
    if (low) turn.scrollIntoView({ block: "nearest" }); // whoever has scrolled elsewhere stays there
  };
  const whole = await stoppable(turn, async (signal) => {
    if (!$("model").value) await loadModels();
    run.body = bodyOf(prompt);
    await generate(run, signal, heard);
  });
  answer.finish();
  turn.setAttribute("aria-busy", "false");
  if (run.events.length && turn.isConnected) {
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
  keep.onclick = () => save({ prompt, run, plain }).catch((error) => verdict.append(problem(error.message)));
  again.disabled = !whole;
  turn.append(el("div", { class: "row" }, again, keep), verdict);
}

/** Two bars on one scale of time, with speculation and without. */
function race(run, plain) {
  const rows = [["with speculation", run, "s0"], ["without", plain, "own"]].map(([name, one, colour]) => {
    const [strip, figure] = [bar(0, colour), el("span")];
    return { one, strip, figure, node: el("li", {}, el("span", {}, name), strip, figure) };
  });
  const grow = () => {
    const lengths = rows.map(({ one }) => figuresOf(one).seconds);
    rows.forEach(({ strip, figure }, index) => {
      strip.lastChild.setAttribute("width", 100 * lengths[index] / Math.max(...lengths, 0.001));
      figure.textContent = `${lengths[index].toFixed(2)} s`;
    });
  };
  grow();
  return { grow, node: el("ul", { class: "race" }, ...rows.map(({ node }) => node)) };
}

function judged(run, plain) {
  const ids = (one) => one.events.flatMap((event) => event.tokens.map((token) => token.id)).join();
  if (run.text !== plain.text || ids(run) !== ids(plain)) {
    return problem("The texts DIFFER: that is a bug in Paceline. Please report it with a replay.");
  }
  const times = figuresOf(plain).seconds / figuresOf(run).seconds;
  return el("p", {}, el("b", {}, "Identical text"), `. ${times.toFixed(2)} × as fast with speculation.`);
}

/** Sets what a select offers, and leaves it alone where that is what it offers. */
function offer(select, choices) {
  const before = select.value;
  if (String(choices) === String([...select.options].map(({ value, text }) => [value, text]))) return;
  select.replaceChildren(...choices.map(([value, name]) => el("option", { value }, name)));
  if (choices.some(([value]) => value === before)) select.value = before;
}

async function loadModels() {
  offer($("model"), (await get("/v1/models")).data.map(({ id }) => [id, id]));
}

/** Models of the verifiers, and the sets of drafters that can be asked for: the arms of the chosen model. */
function offerChoices({ members, arms, policy }) {
  const models = members.filter(({ role, draining }) => role === "verifier" && !draining).map(({ model }) => model);
  offer($("model"), [...new Set(models)].sort().map((model) => [model, model]));
  const sets = arms.filter((arm) => arm.model === $("model").value && !arm.max_nodes && arm.drafters.length);
  offer($("drafters"), [["{}", `the router chooses (${policy})`], ['{"speculation":false}', "none"],
    ...sets.map(({ drafters }) => [JSON.stringify({ drafters }), drafters.join(" + ")])]);
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
loadModels().catch(() => {}); // a token that may not see the status may still ask
watchDeployment(offerChoices);
