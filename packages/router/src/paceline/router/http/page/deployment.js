// Who is there, what the router has learnt of its arms, and what happened: asked for every few seconds.

import { askForToken, get } from "./api.js";
import { colourOf, el, svg } from "./view.js";

const $ = (id) => document.getElementById(id);
const labelOf = (arm) => (arm.drafters.join(" + ") || "plain") + (arm.max_nodes ? ` ≤ ${arm.max_nodes}` : "");
const colourOfArm = (arm) => (arm.drafters.length ? colourOf(labelOf(arm)) : "own");
const timeOf = (seconds) => new Date(1000 * seconds).toLocaleTimeString();
const happens = (target, kind) => new Promise((resolve) => target.addEventListener(kind, resolve, { once: true }));

/** Keeps the section about the deployment up to date while the page is looked at; `heard` gets each status. */
export async function watchDeployment(heard) {
  for (;;) {
    try {
      const [status, history] = await Promise.all([get("/paceline/status"), get("/paceline/history")]);
      showStatus(status);
      showHistory(history);
      await heard(status);
    } catch (error) {
      await explain(error);
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
    while (document.hidden) await happens(document, "visibilitychange");
  }
}

/** Says why there is no status. What a token may not see isn't asked for again before there is another. */
async function explain(error) {
  $("standing").textContent = `No status: ${error.message}`;
  if (error.status !== 401 && error.status !== 403) return;
  const other = el("button", { type: "button" }, "Use another token");
  $("standing").append(" ", other);
  await happens(other, "click");
  await askForToken("The status is for tokens with the role member or admin.").catch(() => {});
}

function showStatus(status) {
  const { version, protocol, uptime_s, active_requests: running, finished_requests: finished, policy } = status;
  $("standing").textContent = `Router ${version}, protocol ${protocol}, up for ${Math.round(uptime_s)} s. ` +
    `Requests: ${running} running, ${finished} finished. Policy: ${policy}.`;
  fill($("arm-table"), ["arm", "speed", "segments", "bonus"], status.arms.map((arm) => [
    keyed(colourOfArm(arm), labelOf(arm)), arm.pulls ? `${arm.speed.toFixed(2)} ×` : "–", arm.pulls.toFixed(1),
    arm.bonus?.toFixed(2) ?? "–"]));
  fill($("member-table"), ["role", "name", "what", "revision"], status.members.map((member) => [
    member.role === "drafter" ? keyed(colourOf(member.name), member.role) : member.role, member.name || member.id,
    [member.model && `${member.model}, ${member.load} of ${member.capacity} sessions`, ...member.strategies,
      member.trial_of && "on trial", member.draining && "draining", member.own && "own"].filter(Boolean).join(", "),
    member.revision || "–"]));
}

const keyed = (colour, text) => el("span", {}, el("i", { class: `key ${colour}` }), text);

function fill(table, headings, rows) {
  const line = (kind, cells) => el("tr", {}, ...cells.map((cell) => el(kind, {}, cell)));
  table.replaceChildren(el("thead", {}, line("th", headings)), el("tbody", {}, ...rows.map((row) => line("td", row))));
}

const WORDS = {
  came: ({ name, after }) => `${name} came${after && ` with revision ${after}`}`,
  left: ({ name }) => `${name} left`,
  revision: ({ name, before, after }) => `${name} swapped revision ${before || "none"} for ${after || "none"}`,
  trial: ({ name, after }) => `${name} is on trial in place of ${after}`,
  verdict: ({ name, after }) => `verdict on ${name}: ${after}`,
  policy: ({ before, after }) => `policy ${before} became ${after}`,
};

function showHistory(history) {
  $("chart").replaceChildren(chartOf(history));
  $("events").replaceChildren(...history.events.slice(-40).reverse().map((event) =>
    el("li", {}, el("time", {}, timeOf(event.time_s)), ` ${event.role} ${WORDS[event.kind](event)}`)));
}

/** Speed of each arm over time; the line at 1 is plain decoding. */
function chartOf({ times_s: times, arms }) {
  const [width, height, left] = [420, 132, 34];
  const speeds = arms.map((arm) => arm.speed.map((speed, at) => (arm.pulls[at] ? speed : null)));
  const told = speeds.flat().filter((speed) => speed !== null);
  const [least, most] = [Math.min(0.8, ...told), Math.max(1.5, ...told) * 1.05];
  const [first, last] = [times[0] ?? 0, times.at(-1) ?? 0];
  const x = (at) => (left + ((width - left - 4) * (times[at] - first)) / Math.max(1, last - first)).toFixed(1);
  const y = (speed) => (height * (1 - (speed - least) / (most - least))).toFixed(1);
  const label = (x, y, text, anchor) => svg("text", { x, y, "text-anchor": anchor }, text);
  const axes = [1, 1.5, 2, 3, 4, 6, 8].filter((speed) => speed < most).flatMap((speed) => [
    svg("path", { class: speed === 1 ? "axis plain" : "axis", d: `M${left} ${y(speed)}H${width}` }),
    label(left - 4, Number(y(speed)) + 4, `${speed} ×`, "end")]);
  const lines = arms.map((arm, number) => {
    const points = speeds[number].map((speed, at) => (speed === null ? "" : `${x(at)} ${y(speed)}`));
    const d = points.map((point, at) => point && `${points[at - 1] ? "L" : "M"}${point}`).join("");
    return svg("path", { class: `line ${colourOfArm(arm)}`, d }, svg("title", {}, labelOf(arm)));
  });
  const about = { viewBox: `0 0 ${width} ${height + 18}`, class: "chart", role: "img", "aria-label": "Arms’ speed" };
  return svg("svg", about, ...axes, ...lines, label(left, height + 15, timeOf(first), "start"),
    label(width - 2, height + 15, timeOf(last), "end"));
}
