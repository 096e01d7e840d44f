"use strict";
// Text with TeX as nodes: formulas by KaTeX; text that does not parse is unchanged.
const FORMULA = new RegExp([
  String.raw`\$\$([\s\S]+?)\$\$`,
  String.raw`\\\[([\s\S]+?)\\\]`,
  String.raw`\\\(([\s\S]+?)\\\)`,
  // A dollar sign is money unless its partner closes like a formula: no space before it, no digit after it.
  String.raw`(?<![\\$])\$(?![\s$])((?:\\[\s\S]|[^$\\])+?)(?<!\s)\$(?![\d$])`,
  String.raw`(\\begin\{(?:align|aligned|equation|gather|gathered|cases|array|[bpvBV]?matrix)\*?\}[\s\S]+?\\end\{[a-zA-Z]+\*?\})`,
  // A final answer is often outside any formula.
  String.raw`(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})`,
].join("|"), "g");
const formula = (tex, display) => {
  const node = document.createElement("span");
  try {
    // `trust` off: no links, images or styles from the text. Sizes are bounded.
    katex.render(tex, node, { displayMode: display, throwOnError: true, strict: "ignore", trust: false, maxSize: 20, maxExpand: 200 });
    return node;
  } catch {
    return null;
  }
};
// Appends the text to the node and returns the node.
const rich = (node, text) => {
  let from = 0;
  for (const match of text.matchAll(FORMULA)) {
    const kind = match.slice(1).findIndex((group) => group !== undefined);
    const display = kind < 2 || kind === 4;
    const made = formula(match[kind + 1], display);
    if (made === null) continue;
    let before = text.slice(from, match.index);
    // A displayed formula has its own line.
    if (display) before = before.replace(/\n\s*$/, "");
    node.append(before, made);
    from = match.index + match[0].length;
    if (display) from += text.slice(from).match(/^\s*\n|/)[0].length;
  }
  node.append(text.slice(from));
  return node;
};
