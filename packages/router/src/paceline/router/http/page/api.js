// Talks to the router: JSON, streams of events, and a token that is kept in memory only.

let token = "";
let asking = null; // a promise of a token, while somebody is asked for one

/** The response to a request; asks for a token where one is needed. Throws Error with `status`. */
export async function call(path, body, signal) {
  for (;;) {
    const headers = { ...(token && { authorization: `Bearer ${token}` }), "content-type": "application/json" };
    const given = body ? { method: "POST", body: JSON.stringify(body) } : {};
    const response = await fetch(path, { ...given, headers, signal, cache: "no-store" });
    if (response.ok) return response;
    const message = await response.json().then((reply) => reply.error.message, () => response.statusText);
    if (response.status !== 401) throw Object.assign(new Error(message), { status: response.status });
    await askForToken(message);
  }
}

export const get = async (path) => (await call(path)).json();

/** Asks for a token, once for everybody who needs one. Throws Error with status 401 if there is none. */
export function askForToken(why) {
  asking ??= new Promise((resolve, reject) => {
    const door = document.getElementById("door");
    const field = document.getElementById("token");
    document.getElementById("door-why").textContent = why;
    document.getElementById("door-close").onclick = () => door.close();
    door.onclose = () => reject(Object.assign(new Error("without a token it answers nothing"), { status: 401 }));
    door.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      [token, field.value] = [field.value.trim(), ""];
      resolve();
      door.close();
    };
    door.showModal();
  }).finally(() => (asking = null));
  return asking;
}

/** The data of each event of a stream, up to [DONE]. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the stream broke off");
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.startsWith("data: ") ? block.slice(6) : ""; // one line each; others are pings
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

/** Runs a chat's body; `run` gets events, text and outcome as they come, and `heard` each event. */
export async function generate(run, signal, heard) {
  const response = await call("/v1/chat/completions", run.body, signal);
  const began = performance.now();
  for await (const part of eventsOf(response)) {
    if (part.error) throw new Error(part.error.message);
    const [choice] = part.choices;
    const scores = choice.logprobs?.content ?? [];
    const tokens = (part.paceline?.tokens ?? []).map(({ id, bytes, source }, index) => {
      const { bytes: piece = [], logprob, top_logprobs: top = [] } = scores[index] ?? {};
      return { id, source, bytes: bytes ?? piece, logprob, top: top.map(({ bytes, logprob }) => ({ bytes, logprob })) };
    });
    run.text += choice.delta?.content ?? "";
    run.outcome = part.paceline?.outcome ?? run.outcome;
    if (!tokens.length) continue;
    run.events.push({ at: Math.round(performance.now() - began), tokens, step: part.paceline.step ?? null });
    heard(run.events.at(-1));
  }
}
