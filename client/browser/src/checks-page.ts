// The checks as a page: it tells whoever serves it what came of each.

import { connect } from "./board.js";
import { checks } from "./checks.js";

const store = connect(new URLSearchParams(location.search).get("sidecar")!);
const restart = async () => void (await fetch("/restart", { method: "POST" }));
const verdicts: Record<string, string> = {};
for (const [title, check] of Object.entries(checks)) {
  verdicts[title] = await check({ store, restart }).then(() => "passed", String);
}
await fetch("/verdicts", { method: "POST", body: JSON.stringify(verdicts) });
