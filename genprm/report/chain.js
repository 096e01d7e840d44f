"use strict";
// How a step was judged: the chains with their rationale, the code, and what it printed.
const stepClass = (score, limit) => (score === null || score === undefined ? "open" : score < limit ? "wrong" : "right");
// A part that is built when first opened.
const folded = (title, fill, open = false) => {
  const details = make("details", "", make("summary", "", title));
  const build = () => { if (details.children.length === 1) fill(details); };
  details.addEventListener("toggle", () => { if (details.open) build(); });
  if (open) { build(); details.open = true; }
  return details;
};
const PYTHON = /(#[^\n]*)|([rbfuRBFU]{0,2}(?:"""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))|\b(False|None|True|and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b|(?<![\w.])(\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;
const python = (source) => {
  const pre = make("pre", "");
  let from = 0;
  for (const match of source.matchAll(PYTHON)) {
    pre.append(source.slice(from, match.index));
    pre.append(make("span", ["c", "s", "k", "n"][match.slice(1).findIndex((group) => group !== undefined)], match[0]));
    from = match.index + match[0].length;
  }
  pre.append(source.slice(from));
  return pre;
};
const label = (text, badge) => make("p", "label", text, badge ? " " : null, badge ?? null);

const SECTION = /<\/?(analyze|verify|output|think)>\n?/g;
const NAMES = { analyze: "Rationale", verify: "Check", think: "Thinking" };
const FENCE = /```(\w*)\n([\s\S]*?)(?:\n```|$)/g;
const VERDICT = /^\*\*Judgement\*\*: \$\\boxed\{(Yes|No)\}\$$/;
const prose = (parent, text) => {
  let from = 0;
  const plain = (end) => {
    const part = text.slice(from, end).trim();
    if (part && !VERDICT.test(part)) parent.append(rich(make("p", "prose"), part));
  };
  for (const match of text.matchAll(SECTION)) {
    plain(match.index);
    if (!match[0].startsWith("</") && NAMES[match[1]]) parent.append(label(NAMES[match[1]]));
    from = match.index + match[0].length;
  }
  plain(text.length);
};
const proseAndFences = (parent, text) => {
  let from = 0;
  for (const match of text.matchAll(FENCE)) {
    prose(parent, text.slice(from, match.index));
    parent.append(match[1] === "python" ? python(match[2]) : make("pre", "", match[2]));
    from = match.index + match[0].length;
  }
  prose(parent, text.slice(from));
};
// Output is shown from the sandbox's report, never from the model's text: a model can invent output.
const OUTPUT = /^\s*(?:```\s*)?\[Code Output\]\s*```\n[\s\S]*?\n?```\n?/;
const ran = (parent, run) => {
  const ok = run.status === "ok";
  parent.append(label("Code"), python(run.source));
  const seconds = run.duration_s >= 1 ? `${run.duration_s.toFixed(1)} s` : `${Math.round(1000 * run.duration_s)} ms`;
  const badge = make("span", `badge ${ok ? "right" : run.status === "not_run" ? "open" : "wrong"}`, run.status.replaceAll("_", " "));
  if (run.status === "not_run") return parent.append(label("Not executed", badge));
  parent.append(label(`Output after ${seconds}`, badge));
  const text = [run.stdout.replace(/\n$/, ""), run.error].filter(Boolean).join("\n");
  parent.append(make("pre", ok ? "" : "failed", text || "(nothing printed)"));
};
const chainNode = (chain, limit = 0.5) => {
  const node = make("div", "chain");
  let text = chain.text;
  for (const run of chain.code) {
    const source = run.source.trim();
    const at = source ? text.indexOf(source) : -1;
    if (at >= 0) {
      proseAndFences(node, text.slice(0, at).replace(/```\w*\s*$/, ""));
      text = text.slice(at + source.length).replace(/^\s*```[ \t]*\n?/, "");
      if (run.status !== "not_run") text = text.replace(OUTPUT, "");
    }
    ran(node, run);
  }
  proseAndFences(node, text);
  const kind = stepClass(chain.score, limit);
  node.append(label("Verdict", make("span", `badge ${kind}`, chain.verdict === null ? "none" : `${chain.verdict} ${number(chain.score)}`)));
  if (chain.finish !== "verdict") node.append(make("p", "label", `This chain ended as: ${chain.finish.replaceAll("_", " ")}`));
  if (chain.copied) node.append(make("p", "label", "Not an independent vote: this chain continues a copy of the first one."));
  const raw = make("details", "raw", make("summary", "", "Raw text"));
  raw.addEventListener("toggle", () => { if (raw.open && raw.children.length === 1) raw.append(make("pre", "", chain.text)); });
  node.append(raw);
  return node;
};
const votes = (parent, chains, limit = 0.5) => {
  if (chains.length === 1) return parent.append(chainNode(chains[0], limit));
  const bar = make("div", "votes");
  const place = make("div", "");
  chains.forEach((chain, number_) => {
    const button = make("button", "", `${number_ + 1}: `, make("span", `word ${stepClass(chain.score, limit)}`, number(chain.score)));
    button.type = "button";
    button.addEventListener("click", () => {
      for (const other of bar.children) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", "true");
      place.replaceChildren(chainNode(chain, limit));
    });
    bar.append(button);
  });
  parent.append(bar, place);
  bar.children[0].click();
};
