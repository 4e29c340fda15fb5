// How an answer looks: tokens in the colours of their drafters, a token's alternatives, a step's tree. Saved replays
// have this file in them, so it imports nothing and asks the network for nothing. Text is inserted as text only.

const OWN = "the model itself";
const slots = new Map(); // name of a drafter or arm: number of its colour, of which there are 8

const filled = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

/** A bar that is filled to this share. */
export const bar = (share, colour) => svg("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none" },
  svg("rect", { width: 100, height: 8 }), svg("rect", { class: colour, width: 100 * share, height: 8 }));

/** The name of "drafter/strategy"; one word if both are the same. */
const nameOf = (source) => source?.replace(/^(.*)\/\1$/, "$1") ?? OWN;

/** The class that gives something the colour of a drafter; the same name has the same one while the page lives. */
export function colourOf(name) {
  if (name === OWN) return "own";
  if (!slots.has(name)) slots.set(name, slots.size % 8);
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

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** Figures of a run so far: tokens a step, speed relative to plain decoding (as the router's reward), shares. */
export function figuresOf(run) {
  const steps = run.events.filter((event) => event.step);
  const names = run.events.flatMap((event) => event.tokens.map((token) => nameOf(token.source)));
  const { verify_s, wait_s, plain_s, elapsed_s, prefill_s } = run.outcome ?? { // not over yet: as far as steps tell
    verify_s: sum(steps.map(({ step }) => step.step_s)), wait_s: sum(steps.map(({ step }) => step.wait_s)),
    plain_s: sum(steps.map(({ step, tokens }) => step.plain_step_s * tokens.length)),
    elapsed_s: (run.events.at(-1)?.at ?? 0) / 1000, prefill_s: 0,
  };
  return {
    tokens: names.length, steps: steps.length, seconds: elapsed_s - prefill_s,
    shares: [...new Set([OWN, ...names])].map((name) => [name, sum(names.map((one) => one === name)) / names.length]),
    perStep: sum(steps.map((event) => event.tokens.length)) / steps.length,
    speed: plain_s / Math.max(verify_s + wait_s, 1e-9),
  };
}

/** One answer as it comes: text, a strip with a column of tokens for each step, figures. */
export class Answer {
  following = true; // the newest token is shown until somebody chooses one
  #places = []; // of tokens: where they are, and what is known of them
  #decoder = new TextDecoder();

  constructor(run, inspector) {
    [this.run, this.inspector] = [run, inspector];
    this.text = el("div", { class: "text", role: "group", "aria-label": "Answer: arrow keys go from token to token" });
    this.strip = svg("svg", { class: "strip", role: "img", "aria-label": "Tokens of each step" });
    this.figures = el("div", { class: "figures" });
    this.node = el("div", {}, this.text, this.strip, this.figures);
    for (const kind of ["pointerover", "focusin"]) this.node.addEventListener(kind, (event) => this.#choose(event));
    this.text.addEventListener("keydown", (event) => this.#move(event));
  }

  /** The tokens of one step. */
  add(event) {
    const [step, column, number] = [el("span", { class: "step" }), svg("g"), this.text.childElementCount];
    const [before, own] = [this.#places.at(-1)?.token, event.tokens.at(-1).source ? 0 : 1]; // one's own stands lowest
    event.tokens.forEach((token, index) => {
      const text = this.#decoder.decode(new Uint8Array(token.bytes), { stream: true });
      const colour = colourOf(nameOf(token.source));
      const node = el("span", { class: `token ${colour}`, tabindex: this.#places.length ? -1 : 0 }, text);
      if (/[\u202a-\u202e\u2066-\u2069]/.test(text)) node.dir = "auto"; // what it turns around ends with it
      const y = -8 * ((index + own) % event.tokens.length) - 8;
      step.append(node);
      column.append(svg("rect", { class: colour, x: 11 * number + 1, y, width: 9, height: 7 }));
      this.#places.push({ node, token, event, index, text, step, column, before, number });
    });
    this.text.append(step);
    this.strip.append(column);
    const height = 8 * Math.max(4, ...this.run.events.map((one) => one.tokens.length)) + 1;
    const width = 11 * Math.max(40, number + 1);
    const viewBox = `0 ${-height} ${width} ${height}`;
    filled(this.strip, { viewBox, width, height, preserveAspectRatio: "xMinYMax" }, []);
    this.#tell();
    if (this.following) this.#show(this.#places.at(-1));
  }

  /** It is over: what came after the text's end (an end-of-sequence token) is marked as such. */
  finish() {
    this.#places.at(-1)?.node.append(this.#decoder.decode()); // half a character, if it ended in the middle of one
    let length = 0;
    for (const { node, text } of this.#places) {
      node.classList.toggle("beyond", length >= this.run.text.length);
      length += text.length;
    }
    this.#tell();
  }

  #tell() {
    const { tokens, steps, perStep, speed, shares } = figuresOf(this.run);
    const figure = (value, name) => el("span", {}, el("b", {}, value), ` ${name}`);
    const keys = shares.map(([name, share]) =>
      el("li", {}, el("i", { class: `key ${colourOf(name)}` }), `${name} ${percent(share)}`));
    this.figures.replaceChildren(...(steps ? [figure(perStep.toFixed(2), "tokens per step"),
      figure(`${speed.toFixed(2)} ×`, "plain decoding")] : []), figure(tokens, `tokens in ${steps} steps`),
      el("ul", { class: "legend", "aria-label": "Who proposed the tokens" }, ...keys), el("p", { class: "hint" },
        "A column is a step: grey is the token that it always brings, coloured are guesses that came true."));
  }

  #choose({ target, type }) {
    const part = target.closest(".token, .strip g");
    const place = part && this.#places.find(({ node, column }) => node === part || column === part);
    if (!place) return;
    this.following = false;
    this.#show(place);
    if (type === "focusin") for (const { node } of this.#places) node.tabIndex = node === place.node ? 0 : -1;
  }

  #move(event) {
    const now = this.#places.findIndex(({ node }) => node === event.target);
    const last = this.#places.length - 1;
    const to = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key];
    if (now < 0 || to === undefined) return;
    event.preventDefault();
    this.#places[to].node.focus();
  }

  #show(place) {
    for (const shown of document.querySelectorAll(".chosen, .with")) shown.classList.remove("chosen", "with");
    place.node.classList.add("chosen");
    for (const part of [place.step, place.column]) part.classList.add("with");
    this.inspector.replaceChildren(...tokenView(place), ...stepView(place));
  }
}

/** What is shown before any token is. */
export const hint = () => el("p", { class: "hint" }, "Point at a token, or go there with Tab and the arrow keys: " +
  "here is what else could have been said, and the tree of guesses that its step checked.");

function tokenView({ token }) {
  const [name, chance] = [nameOf(token.source), Math.exp(token.logprob)];
  const same = (one) => String(one.bytes) === String(token.bytes);
  const shown = token.top.length && !token.top.some(same) ? [...token.top, token] : token.top;
  const rows = shown.map((one) => el("li", same(one) ? { class: "taken" } : {}, el("span", {}, spelled(one.bytes)),
    bar(Math.exp(one.logprob), same(one) ? colourOf(name) : "own"), el("span", {}, percent(Math.exp(one.logprob)))));
  const given = Number.isFinite(chance) ? `; the model gives it ${percent(chance)}` : "";
  return [el("h2", {}, el("code", { class: `token ${colourOf(name)}` }, spelled(token.bytes))),
    el("p", {}, token.source ? "guessed by " : "said by ", el("b", {}, name), given),
    el("ol", { class: "top", "aria-label": "What else could have been said" }, ...rows)];
}

function stepView({ event: { step, tokens }, index, before, number }) {
  if (!step) return [el("p", { class: "hint" }, "Nothing is told of this token's step.")];
  const [all, kept] = [step.nodes.length + step.hidden_nodes, step.nodes.filter((node) => node.accepted).length];
  const [took, plain] = [step.step_s, step.plain_step_s].map((seconds) => `${(1000 * seconds).toFixed(0)} ms`);
  return [
    el("h2", {}, `Step ${number + 1}: ${tokens.length} ${tokens.length === 1 ? "token" : "tokens"}`),
    el("p", {},
      all ? `${all} ${all === 1 ? "guess" : "guesses"} checked at once, ${kept} came true. ` : "Nothing was guessed. ",
      `It took ${took}; plain decoding takes ${plain} for one token.`),
    el("div", { class: "scroll tree", tabindex: 0, role: "region", "aria-label": "Tree of guesses" },
      treeOf(step.nodes, tokens, before, index)),
    el("p", { class: "hint" }, "Filled: came true. Dashed: did not. Grey: the model’s own." +
      (step.hidden_nodes ? ` ${step.hidden_nodes} more are not shown.` : "")),
  ];
}

function treeNode(bytes, parent, accepted, source, chance = 0) {
  const [full, name] = [bytes ? [...spelled(bytes)] : [..."prompt"], nameOf(source)];
  const label = (full.length > 12 ? [...full.slice(0, 11), "…"] : full).join("");
  const title = `${full.join("")}: ${source ? `guessed by ${name}, likely to ${percent(chance)}` : OWN}`;
  const width = 7 * Math.min(12, full.length) + 10;
  return { label, title, width, parent, accepted, chance, colour: colourOf(name), kids: [] };
}

/** A step's candidates from left to right, the accepted path on top, and at its end the token that the model added. */
function treeOf(nodes, tokens, before, chosen) {
  const all = [treeNode(before?.bytes, -1, true), ...nodes.map(({ bytes, parent, accepted, sources, probability }) =>
    treeNode(bytes, parent + 1, accepted, sources[0], probability))];
  const path = all.filter((node) => node.accepted);
  for (const { bytes } of tokens.slice(path.length - 1)) {
    path.push(treeNode(bytes, all.indexOf(path.at(-1)), true));
    all.push(path.at(-1));
  }
  for (const node of all.slice(1)) all[node.parent].kids.push(node);
  const [widths, free] = [[], []]; // of each depth: its widest label, and the first row that is free
  (function place(first, depth, least) { // a chain of first children has one row, other children chains of their own
    const chain = [first];
    for (let node = first; node; node = node.kids[0]) {
      node.kids.sort((a, b) => b.accepted - a.accepted || b.chance - a.chance);
      if (node !== first) chain.push(node);
    }
    const row = Math.max(least, ...chain.map((_, index) => free[depth + index] ?? 0));
    chain.forEach((node, index) => {
      Object.assign(node, { depth: depth + index, row });
      free[depth + index] = row + 1;
      widths[depth + index] = Math.max(widths[depth + index] ?? 0, node.width);
    });
    for (const node of chain.reverse()) node.kids.slice(1).forEach((kid) => place(kid, node.depth + 1, row + 1));
  })(all[0], 0, 0);
  const left = widths.map((_, depth) => 2 + sum(widths.slice(0, depth)) + 14 * depth);
  for (const node of all) [node.x, node.y] = [left[node.depth], 26 * node.row + 3];
  const [width, height] = [left.at(-1) + widths.at(-1) + 2, 26 * Math.max(...free) + 4];
  const edges = all.slice(1).map(({ x, y, accepted, colour, parent }) => {
    const [from, high, low] = [all[parent].x + all[parent].width, all[parent].y + 11, y + 11];
    const d = `M${from} ${high}H${x - 13}C${x - 6} ${high} ${x - 9} ${low} ${x} ${low}`;
    return svg("path", { class: accepted ? `edge kept ${colour}` : "edge", d });
  });
  const boxes = all.map((node) => {
    const kind = `node ${node.colour} ${node.accepted ? "kept" : ""} ${node === path[chosen + 1] ? "here" : ""}`;
    return svg("g", { class: kind }, svg("title", {}, node.title),
      svg("rect", { x: node.x, y: node.y, width: node.width, height: 22, rx: 5 }),
      svg("text", { x: node.x + 5, y: node.y + 15 }, node.label));
  });
  const label = path.map((node) => node.label).join(" ");
  return svg("svg", { width, height, role: "img", "aria-label": label }, ...edges, ...boxes);
}
