// Saves an answer as one HTML file that plays it back, with nothing else and without a network.

const sources = ["page.css", "view.js", "replay.js"];
let parts = null; // texts of the files above

/** JSON that can't end the element it stands in, whatever a model said. */
const inert = (value) => JSON.stringify(value).replace(/[<>&\u2028\u2029]/g,
  (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** Offers the file for download. Programs in it run only with a number that nobody could have known beforehand. */
export async function save(record) {
  parts ??= await Promise.all(sources.map(async (name) => (await fetch(`/page/${name}`)).text()));
  const [style, view, replay] = parts.map((text) => text.replace(/^import .*$/gm, ""));
  const nonce = crypto.getRandomValues(new BigUint64Array(2)).join("");
  const policy = `default-src 'none'; script-src 'nonce-${nonce}'; style-src 'nonce-${nonce}'`;
  const page = `<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Paceline replay</title><style nonce="${nonce}">${style}</style>
<body class="replay">
<script type="application/json" id="record">${inert(record)}</script>
<script type="module" nonce="${nonce}">${view}${replay}</script>`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  link.download = "paceline-replay.html";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
