// Plays a saved answer with the timing it had, beside plain decoding if that was compared.
import { Answer, el, hint } from "./view.js";

const { prompt, run, plain } = JSON.parse(document.getElementById("record").textContent);
const inspector = el("aside", { id: "inspector" });
const stage = el("div", { class: "stage" });
const again = el("button", { type: "button", class: "main" }, "Play again");
const whole = el("button", { type: "button" }, "Show it all");
let timers = [];

function play(rate) {
  timers.forEach(clearTimeout);
  timers = [];
  inspector.replaceChildren(hint());
  const columns = [[run, "With speculation"], [plain, "Without"]].filter(([one]) => one).map(([one, name], index) => {
    const told = { ...one, events: [], outcome: null };
    const answer = new Answer(told, inspector);
    answer.following = index === 0;
    const began = one.events[0]?.at ?? 0;
    const add = (event) => {
      told.events.push(event);
      answer.add(event);
      if (event !== one.events.at(-1)) return;
      told.outcome = one.outcome;
      answer.finish();
    };
    for (const event of one.events) rate ? timers.push(setTimeout(add, (event.at - began) / rate, event)) : add(event);
    return el("section", {}, plain ? el("h2", {}, name) : "", answer.node);
  });
  stage.replaceChildren(...columns);
}

again.onclick = () => play(1);
whole.onclick = () => play(0);
const { model, seed, temperature } = run.body;
const about = `${model}, temperature ${temperature}, seed ${seed}. Coloured tokens were guessed, the others were not.`;
const buttons = el("div", { class: "row" }, again, whole);
document.body.append(el("header", {}, el("h1", {}, "Paceline"), el("p", {}, about)),
  el("main", {}, el("section", { id: "talk" }, el("p", { class: "asked" }, prompt), buttons, stage), inspector));
play(1);
