// How an answer looks: tokens in the colours of their drafters, a token's alternatives, a step's tree. Saved replays have
// this file in them, so it imports nothing and asks the network for nothing. Text goes into the page as text only.

const SVG = "http://www.w3.org/2000/svg";
const OWN = "the model itself";
const SLOTS = 8;
const slots = new Map(); // name of a source or arm: number of its colour

const filled = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);
export const bar = (share, colour) => svg("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
  svg("rect", { width: 100, height: 8 }), svg("rect", { class: colour, width: 100 * share, height: 8 }));
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

/** The name of "drafter/strategy"; one word if both are the same. */
export const nameOf = (source) => source?.replace(/^(.*)\/\1$/, "$1") ?? OWN;

/** The class that gives something the colour of a drafter; the same name has the same one as long as the page lives. */
export function colourOf(name) {
  if (!name || name === OWN) return "own";
  if (!slots.has(name)) slots.set(name, slots.size % SLOTS);
  return `s${slots.get(name)}`;
}

/** Bytes of a token as a label in which nothing is invisible. */
function spelled(bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(bytes));
    return text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/[\p{C}\p{Z}]/gu, "·");
  } catch {
    return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" "); // a part of a character
  }
}
const shortened = (label) => ([...label].length > 12 ? `${[...label].slice(0, 11).join("")}…` : label);

/** Figures of a run so far: tokens a step, speed relative to plain decoding (as the router's reward), shares by source. */
export function figuresOf(run) {
  const steps = run.events.filter((event) => event.step);
  const tokens = run.events.flatMap((event) => event.tokens);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const spent = run.outcome ? run.outcome.verify_s + run.outcome.wait_s
    : sum(steps.map(({ step }) => step.step_s + step.wait_s));
  const plain = run.outcome ? run.outcome.plain_s
    : sum(steps.map(({ step, tokens: each }) => step.plain_step_s * each.length));
  const shares = new Map([[OWN, 0]]);
  for (const { source } of tokens) shares.set(nameOf(source), (shares.get(nameOf(source)) ?? 0) + 1 / tokens.length);
  return {
    tokens: tokens.length, steps: steps.length, shares,
    perStep: steps.length ? sum(steps.map((event) => event.tokens.length)) / steps.length : 0,
    speed: spent > 0 ? plain / spent : 0,
    seconds: run.outcome ? run.outcome.elapsed_s - run.outcome.prefill_s : 0,
  };
}

/** One answer as it comes: text, a strip with a column of tokens for each step, figures. */
export class Answer {
  constructor(run, inspector) {
    Object.assign(this, { run, inspector, places: [], following: true, decoder: new TextDecoder() });
    this.text = el("div", { class: "text", role: "group", "aria-label": "Answer: arrow keys go from token to token" });
    this.strip = svg("svg", { class: "strip", role: "img", "aria-label": "Tokens of each step" });
    this.figures = el("div", { class: "figures" });
    const caption = el("p", { class: "hint" }, "One column is one step: grey the token that it always brings, in colour guesses that came true.");
    this.node = el("div", { class: "answer" }, this.text, this.strip, caption, this.figures);
    for (const kind of ["pointerover", "focusin"]) {
      this.node.addEventListener(kind, ({ target }) => this.#choose(target.closest(".token, .strip g"), kind));
    }
    this.text.addEventListener("keydown", (event) => this.#move(event));
  }

  /** The tokens of one step. */
  add(event) {
    const place = this.places.length;
    const step = el("span", { class: "step" });
    const column = svg("g");
    const own = event.tokens.at(-1)?.source ? 0 : 1; // stands below the others
    event.tokens.forEach((token, index) => {
      const text = this.decoder.decode(new Uint8Array(token.bytes), { stream: true });
      const colour = colourOf(nameOf(token.source));
      const node = el("span", { class: `token ${colour}`, tabindex: place + index ? -1 : 0 }, text);
      step.append(node);
      const level = (index + own) % event.tokens.length;
      column.append(svg("rect", { class: colour, x: 11 * this.text.childElementCount + 1, y: -8 * level - 8, width: 9, height: 7 }));
      this.places.push({ node, token, event, index, text, step, column, before: this.places.at(-1)?.token });
    });
    this.text.append(step);
    this.strip.append(column);
    const height = 8 * Math.max(4, ...this.run.events.map((one) => one.tokens.length)) + 1;
    const width = 11 * Math.max(40, this.text.childElementCount);
    filled(this.strip, { viewBox: `0 ${-height} ${width} ${height}`, width, height }, []);
    this.#tell();
    if (this.following) this.#show(this.places.at(-1));
  }

  /** It is over: what came after the text's end (an end-of-sequence token) is marked as such. */
  finish() {
    let length = 0;
    for (const place of this.places) {
      if (length >= this.run.text.length) place.node.classList.add("beyond");
      length += place.text.length;
    }
    this.#tell();
  }

  #tell() {
    const { tokens, steps, perStep, speed, shares } = figuresOf(this.run);
    const figure = (value, name) => el("span", {}, el("b", {}, value), ` ${name}`);
    const keys = [...shares].filter(([, share]) => share).map(([name, share]) =>
      el("li", {}, el("i", { class: `key ${colourOf(name)}` }), `${name} ${percent(share)}`));
    this.figures.replaceChildren(
      ...(steps ? [figure(perStep.toFixed(2), "tokens per step"), figure(`${speed.toFixed(2)} ×`, "plain decoding"),
        figure(tokens, `tokens in ${steps} steps`)] : [figure(tokens, "tokens")]),
      el("ul", { class: "legend", "aria-label": "Who proposed the tokens" }, ...keys));
  }

  #choose(target, kind) {
    const place = target && this.places.find(({ node, column }) => node === target || column === target);
    if (!place) return;
    this.following = false;
    this.#show(place);
    if (kind === "focusin") for (const { node } of this.places) node.tabIndex = node === place.node ? 0 : -1;
  }

  #move(event) {
    const now = this.places.findIndex(({ node }) => node === event.target);
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: this.places.length - 1 }[event.key];
    if (now < 0 || to === undefined) return;
    event.preventDefault();
    this.places[Math.min(this.places.length - 1, Math.max(0, to))].node.focus();
  }

  #show(place) {
    for (const shown of document.querySelectorAll(".chosen, .with")) shown.classList.remove("chosen", "with");
    place.node.classList.add("chosen");
    place.step.classList.add("with");
    place.column.classList.add("with");
    this.inspector.replaceChildren(...tokenView(place), ...stepView(place, 1 + [...this.text.children].indexOf(place.step)));
  }
}

/** What is shown before any token is. */
export const hint = () => el("p", { class: "hint" },
  "Point at a token, or go there with Tab and the arrow keys: here is what else could have been said, and the tree of " +
  "guesses that its step checked.");

function tokenView({ token }) {
  const chance = Math.exp(token.logprob);
  const rows = token.top.map((one) => {
    const same = String(one.bytes) === String(token.bytes);
    return el("li", same ? { class: "taken", "aria-current": "true" } : {}, el("span", {}, spelled(one.bytes)),
      bar(Math.exp(one.logprob), same ? colourOf(nameOf(token.source)) : "own"), el("span", {}, percent(Math.exp(one.logprob))));
  });
  const who = token.source ? ["guessed by ", el("b", {}, nameOf(token.source))] : ["said by ", el("b", {}, OWN)];
  return [
    el("h2", {}, el("code", { class: `token ${colourOf(nameOf(token.source))}` }, spelled(token.bytes))),
    el("p", {}, ...who, Number.isFinite(chance) ? `; the model gives it ${percent(chance)}` : ""),
    el("ol", { class: "top", "aria-label": "What else could have been said" }, ...rows),
  ];
}

function stepView({ event, index, before }, number) {
  const { step, tokens } = event;
  if (!step) return [el("p", { class: "hint" }, "This token came of reading the prompt: no step of its own.")];
  const all = step.nodes.length + step.hidden_nodes;
  const kept = step.nodes.filter((node) => node.accepted).length;
  const told = all ? `${all} guesses checked at once, ${kept} kept, ` : "nothing was guessed, ";
  const times = `${(1000 * step.step_s).toFixed(0)} ms; plain decoding takes ${(1000 * step.plain_step_s).toFixed(0)} ms for one token`;
  const view = [el("h2", {}, `Step ${number}: ${tokens.length} ${tokens.length === 1 ? "token" : "tokens"}`),
    el("p", {}, `${told}in ${times}.`)];
  const scroll = el("div", { class: "scroll tree", tabindex: 0, role: "region", "aria-label": "Tree of guesses" });
  scroll.append(treeOf(step.nodes, tokens, before ? spelled(before.bytes) : "prompt", index));
  const more = step.hidden_nodes ? `; ${step.hidden_nodes} more are not shown` : "";
  return [...view, scroll, el("p", { class: "hint" }, `Filled: became text. Dashed: refused${more}.`)];
}

/** A step's candidates from left to right, the accepted path on top, and at its end the token that the model added. */
function treeOf(nodes, tokens, root, chosen) {
  const all = [{ label: root, parent: -1, accepted: true, colour: "own", kids: [] }];
  for (const { bytes, parent, sources, probability, accepted } of nodes) {
    const names = sources.map(nameOf);
    const title = `${spelled(bytes)}: by ${names.join(", ")}; expected to be right: ${percent(probability)}`;
    all.push({ label: shortened(spelled(bytes)), parent: parent + 1, accepted, probability, title, colour: colourOf(names[0]), kids: [] });
  }
  const path = all.filter((node) => node.accepted);
  for (const token of tokens.slice(path.length - 1)) {
    const parent = all.indexOf(path.at(-1));
    path.push({ label: shortened(spelled(token.bytes)), parent, accepted: true, title: `said by ${OWN}`, colour: "own", kids: [] });
    all.push(path.at(-1));
  }
  all.slice(1).forEach((node) => all[node.parent].kids.push(node));
  const [widths, free] = [[], []]; // of each depth: its labels' width, and the first row that is free
  (function place(first, depth, least) { // a chain of first children has one row; the other children have chains of their own
    const chain = [first];
    while (chain.at(-1).kids.length) {
      chain.at(-1).kids.sort((a, b) => b.accepted - a.accepted || b.probability - a.probability);
      chain.push(chain.at(-1).kids[0]);
    }
    const row = Math.max(least, ...chain.map((_, index) => free[depth + index] ?? 0));
    chain.forEach((node, index) => {
      Object.assign(node, { depth: depth + index, row });
      free[depth + index] = row + 1;
      widths[depth + index] = Math.max(widths[depth + index] ?? 0, 8 * [...node.label].length + 12);
    });
    for (const node of chain.reverse()) node.kids.slice(1).forEach((kid) => place(kid, node.depth + 1, row + 1));
  })(all[0], 0, 0);
  const rows = Math.max(...free);
  const left = (depth) => widths.slice(0, depth).reduce((sum, width) => sum + width + 18, 2);
  const [width, height] = [left(widths.length), 26 * rows + 4];
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Kept: ${path.slice(1).map((node) => node.label).join(" ")}` });
  for (const node of all.slice(1)) {
    const from = all[node.parent];
    const [x, y, to, down] = [left(from.depth) + 8 * [...from.label].length + 12, 26 * from.row + 14, left(node.depth), 26 * node.row + 14];
    picture.append(svg("path", { class: node.accepted ? `edge kept ${node.colour}` : "edge",
      d: `M${x} ${y}H${left(node.depth) - 16}C${to - 8} ${y} ${to - 12} ${down} ${to} ${down}` }));
  }
  for (const node of all) {
    const [x, y] = [left(node.depth), 26 * node.row + 3];
    const kind = `node ${node.colour} ${node.accepted ? "kept" : "refused"} ${node === path[chosen + 1] ? "here" : ""}`;
    picture.append(svg("g", { class: kind }, svg("title", {}, node.title ?? "what came before"),
      svg("rect", { x, y, width: 8 * [...node.label].length + 12, height: 22, rx: 5 }),
      svg("text", { x: x + 6, y: y + 15.5 }, node.label)));
  }
  return picture;
}
