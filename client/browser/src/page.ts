// The page: it shows a board, adds what anyone writes on it, and writes itself.
// `?sidecar=http://127.0.0.1:7465&board=1` says which.

import { connect, load, watch, write } from "./board.js";

const asked = new URLSearchParams(location.search);
const board = asked.get("board") ?? "1";
const store = connect(asked.get("sidecar") ?? "http://127.0.0.1:7465");

const notes = document.querySelector<HTMLOListElement>("#notes")!;
const input = document.querySelector<HTMLInputElement>("#text")!;
const trouble = document.querySelector<HTMLParagraphElement>("#trouble")!;

const loaded = await load(store, board);
let version = loaded.version;
loaded.notes.forEach(show);

document.querySelector("#form")!.addEventListener("submit", (event) => {
  event.preventDefault();
  trouble.textContent = "";
  write(store, board, input.value, version).then(() => (input.value = ""), complain);
});

follow().catch(complain);

async function follow(): Promise<void> {
  for await (const next of watch(store, board, loaded.checkpoint)) {
    version = next.version;
    show(next.note);
  }
}

function show(note: string): void {
  notes.append(Object.assign(document.createElement("li"), { textContent: note }));
}

function complain(error: unknown): void {
  trouble.textContent = String(error);
}
