// The checks as a page, and the board's page beside them: it tells whoever serves it what came of
// each.

import { connect, write } from "./board.js";
import { checks } from "./checks.js";

const sidecar = new URLSearchParams(location.search).get("sidecar")!;
const store = connect(sidecar);
const restart = async () => void (await fetch("/restart", { method: "POST" }));
const verdicts: Record<string, string> = {};
for (const [title, check] of Object.entries(checks)) {
  verdicts[title] = await check({ store, restart }).then(() => "passed", String);
}
verdicts["the page shows what is written on it"] = await tryPage().then(() => "passed", String);
await fetch("/verdicts", { method: "POST", body: JSON.stringify(verdicts) });

/** Writes on the page as a person would, and waits until it shows so. */
async function tryPage(): Promise<void> {
  const board = crypto.randomUUID();
  await write(store, board, "before", 0n);
  const frame = document.createElement("iframe");
  frame.src = `index.html?sidecar=${sidecar}&board=${board}`;
  document.body.append(frame);
  await new Promise((resolve) => frame.addEventListener("load", resolve));
  const page = frame.contentDocument!;
  const notes = page.querySelector("#notes")!;
  await shows(notes, "before");
  page.querySelector<HTMLInputElement>("#text")!.value = "<b>mine</b>";
  page.querySelector<HTMLFormElement>("#form")!.requestSubmit();
  await shows(notes, "before|<b>mine</b>");
  await write(store, board, "another's", 2n);
  await shows(notes, "before|<b>mine</b>|another's");
}

function shows(notes: Element, wanted: string): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if ([...notes.children].map((note) => note.textContent).join("|") !== wanted) return;
      watching.disconnect();
      resolve();
    };
    const watching = new MutationObserver(look);
    watching.observe(notes, { childList: true });
    look();
  });
}
