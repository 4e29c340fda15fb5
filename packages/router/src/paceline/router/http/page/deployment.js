// Who is there, what the router has learnt of its arms, and what happened: asked for every few seconds.

import { askForToken, get } from "./api.js";
import { colourOf, el, svg } from "./view.js";

const EVERY_MS = 2000;
const $ = (id) => document.getElementById(id);
const labelOf = (arm) => (arm.drafters.join(" + ") || "plain") + (arm.max_nodes ? ` ≤ ${arm.max_nodes}` : "");
const colourOfArm = (arm) => (arm.drafters.length ? colourOf(labelOf(arm)) : "own");
const timeOf = (seconds) => new Date(1000 * seconds).toLocaleTimeString();

/** Keeps the section about the deployment up to date while the page is looked at; `heard` gets each status. */
export async function watchDeployment(heard) {
  for (;;) {
    try {
      const [status, history] = await Promise.all([get("/paceline/status"), get("/paceline/history")]);
      showStatus(status);
      showHistory(history);
      await heard(status);
    } catch (error) {
      await explained(error);
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  }
}

/** Says why there is no status. What a token may not see isn't asked for again before there is another. */
async function explained(error) {
  $("standing").textContent = `No status: ${error.message}`;
  if (error.status !== 401 && error.status !== 403) return;
  const other = el("button", { type: "button" }, "Use another token");
  $("standing").append(" ", other);
  await new Promise((resolve) => {
    other.onclick = () => askForToken("The status is for tokens with the role member or admin.").then(resolve, () => {});
  });
}

function showStatus(status) {
  const many = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;
  $("standing").textContent = `Router ${status.version}, protocol ${status.protocol}, up for ${Math.round(status.uptime_s)} s: ` +
    `${many(status.active_requests, "request")} running, ${status.finished_requests} finished; policy ${status.policy}.`;
  for (const arm of [...status.arms].sort((a, b) => a.drafters.length - b.drafters.length)) colourOfArm(arm);
  fill($("arm-table"), ["arm", "speed", "segments", "bonus"], status.arms.map((arm) => [
    el("span", {}, el("i", { class: `key ${colourOfArm(arm)}` }), labelOf(arm)),
    arm.pulls ? `${arm.speed.toFixed(2)} ×` : "–", arm.pulls.toFixed(1), arm.bonus.toFixed(2)]));
  fill($("member-table"), ["", "name", "what", "revision"], status.members.map((member) => [
    el("span", {}, ...(member.role === "drafter" ? [el("i", { class: `key ${colourOf(member.name)}` })] : []), member.role),
    el("span", { title: `${member.id} ${member.address}` }, member.name || member.id),
    [...(member.role === "verifier" ? [member.model, `${member.load} of ${member.capacity} sessions`] : member.strategies),
      ...(member.trial_of ? ["on trial"] : []), ...(member.draining ? ["draining"] : []), ...(member.own ? ["own"] : [])].join(", "),
    member.revision || "–"]));
}

function fill(table, headings, rows) {
  const line = (kind, cells) => el("tr", {}, ...cells.map((cell) => el(kind, kind === "th" ? { scope: "col" } : {}, cell)));
  table.replaceChildren(el("thead", {}, line("th", headings)), el("tbody", {}, ...rows.map((row) => line("td", row))));
}

function showHistory(history) {
  $("chart").replaceChildren(chartOf(history));
  const words = {
    came: (event) => `${event.name} came${event.after ? ` with revision ${event.after}` : ""}`,
    left: (event) => `${event.name} left`,
    revision: (event) => `${event.name} swapped revision ${event.before || "none"} for ${event.after || "none"}`,
    trial: (event) => `${event.name} is on trial in place of ${event.after}`,
    verdict: (event) => `verdict on ${event.name}: ${event.after}`,
    policy: (event) => `policy ${event.before} became ${event.after}`,
  };
  $("events").replaceChildren(...history.events.slice(-40).reverse().map((event) => el("li", {},
    el("time", { datetime: new Date(1000 * event.time_s).toISOString() }, timeOf(event.time_s)), ` ${event.role} ${words[event.kind](event)}`)));
}

/** Speed of each arm over time; the line at 1 is plain decoding. */
function chartOf({ times_s: times, arms }) {
  const [width, height, left, below] = [420, 150, 34, 18];
  const known = arms.map((arm) => ({ ...arm, speed: arm.speed.map((speed, at) => (arm.pulls[at] ? speed : null)) }));
  const speeds = known.flatMap((arm) => arm.speed).filter((speed) => speed !== null);
  const [least, most] = [Math.min(0.8, ...speeds), Math.max(1.5, ...speeds) * 1.05];
  const [first, span] = [times[0] ?? 0, Math.max(1, times.at(-1) - times[0] || 1)];
  const x = (at) => left + ((width - left - 4) * (times[at] - first)) / span;
  const y = (speed) => (height - below) * (1 - (speed - least) / (most - least));
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": "Speed of each arm over time" });
  for (const speed of [1, ...[1.5, 2, 3, 4, 6, 8].filter((one) => one < most)]) {
    chart.append(svg("path", { class: speed === 1 ? "axis plain" : "axis", d: `M${left} ${y(speed)}H${width}` }),
      svg("text", { x: left - 4, y: y(speed) + 4, "text-anchor": "end" }, `${speed} ×`));
  }
  known.forEach((arm) => {
    let d = "";
    arm.speed.forEach((speed, at) => {
      if (speed !== null) d += `${d && arm.speed[at - 1] !== null ? "L" : "M"}${x(at).toFixed(1)} ${y(speed).toFixed(1)}`;
    });
    chart.append(svg("path", { class: `line ${colourOfArm(arm)}`, d: d || "M0 0" }, svg("title", {}, labelOf(arm))));
  });
  if (times.length) chart.append(svg("text", { x: left, y: height - 3 }, timeOf(first)),
    svg("text", { x: width - 2, y: height - 3, "text-anchor": "end" }, timeOf(times.at(-1))));
  return chart;
}
