(() => {
  const count = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;

  const outcome = (row) => (row.first_error === null ? "open" : row.first_error < 0 ? "right" : "wrong");
  const firstError = (index) =>
    index === null || index === undefined ? "undecided" : index < 0 ? "no error" : `error at step ${index}`;
  const disagrees = (row) => row.label !== null && row.label !== row.first_error;
  const threshold = Number(metrics.processbench?.threshold ?? info.config.threshold ?? 0.5);
  const stepClass = (score, limit = threshold) => (score === null ? "open" : score < limit ? "wrong" : "right");

  // ---- head -------------------------------------------------------------------------------------------------------
  const files = [].concat(info.config.files ?? []);
  head(`${info.command} ${files.join(" ")}`, [info.config.model, info.facts.engine, info.facts.sandbox]);
  fact("rows", whole(metrics.rows), metrics.interrupted ? "stopped early" : "");
  fact("without an error", whole(metrics.judged_right));
  fact("with an error", whole(metrics.judged_wrong));
  if (metrics.undecided) fact("undecided", whole(metrics.undecided));
  if (metrics.failed) fact("failed", whole(metrics.failed));
  if (metrics.labels && !metrics.processbench) {
    const { f1, error_accuracy, correct_accuracy, errors, correct } = metrics.labels;
    fact("F1", percent(f1), `${count(errors + correct, "label")}`);
    fact("first error found", percent(error_accuracy), `of ${errors}`);
    fact("no error confirmed", percent(correct_accuracy), `of ${correct}`);
  }
  for (const subset of metrics.processbench?.subsets ?? []) {
    fact(`F1 ${subset.name}`, percent(subset.f1), subset.low === null ? "" : range(subset));
  }
  if (metrics.prmbench) fact("PRMScore", percent(metrics.prmbench.total.prm_score));
  const snippets = Object.values(metrics.code).reduce((sum, n) => sum + n, 0);
  if (snippets) fact("snippets", whole(snippets), Object.entries(metrics.code).map(([k, n]) => `${whole(n)} ${k}`).join(", "));
  fact("generated tokens", whole(metrics.tokens.generated),
    metrics.session ? `${whole(Math.round(metrics.session.generated_per_s))} a second` : "");

  // ---- list -------------------------------------------------------------------------------------------------------
  const strip = (scores) => {
    const node = make("div", "strip");
    for (const score of scores.slice(0, 60)) node.append(make("i", stepClass(score)));
    return node;
  };
  const entry = (row) => {
    const word = firstError(row.first_error) + (disagrees(row) ? " ≠ label" : "");
    return [make("div", "entry", make("span", "", row.id), make("span", `word ${outcome(row)}`, word)),
      strip(row.scores), make("div", "excerpt", row.excerpt)];
  };

  // ---- a row ------------------------------------------------------------------------------------------------------
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
  const label = (text, badge) => make("p", "label", text, badge ?? null);

  const SECTION = /<\/?(analyze|verify|output|think)>\n?/g;
  const NAMES = { analyze: "Rationale", verify: "Check", think: "Thinking" };
  const FENCE = /```(\w*)\n([\s\S]*?)(?:\n```|$)/g;
  const VERDICT = /^\*\*Judgement\*\*: \$\\boxed\{(Yes|No)\}\$$/;
  const prose = (parent, text) => {
    let from = 0;
    const plain = (end) => {
      const part = text.slice(from, end).trim();
      if (part && !VERDICT.test(part)) parent.append(make("p", "prose", part));
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
  // What ran is shown from what the sandbox reported, never from the model's text: a model can write an output of its own.
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
  const chainNode = (chain, limit) => {
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
    const raw = make("details", "raw", make("summary", "", "Raw text"));
    raw.addEventListener("toggle", () => { if (raw.open && raw.children.length === 1) raw.append(make("pre", "", chain.text)); });
    node.append(raw);
    return node;
  };
  const votes = (parent, chains, limit) => {
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
  const stepNode = (row, step, position) => {
    const solution = position < 0;
    const verdict = solution ? (step.score === null ? null : step.score < row.threshold ? "No" : "Yes") : row.verdicts[position];
    const kind = stepClass(step.score, row.threshold);
    const badge = make("span", `badge ${kind}`, verdict === null ? "no score" : `${verdict} ${number(step.score)}`);
    const node = make("section", `step${!solution && position === row.first_error ? " first" : ""}`,
      make("div", "head", make("span", "number", solution ? "" : String(position)), make("span", "text", step.step ?? "(text not kept)"), badge));
    if (step.reason) node.append(make("p", "notice", step.reason));
    if (step.chains.some((chain) => chain.text || chain.code.length)) {
      const details = make("details", "", make("summary", "", step.chains.length === 1 ? "How it was judged" : `How ${step.chains.length} chains judged it`));
      const fill = () => { if (details.children.length === 1) votes(details, step.chains, row.threshold); };
      details.addEventListener("toggle", () => { if (details.open) fill(); });
      if (solution || position === row.first_error || row.steps.length <= 3) { fill(); details.open = true; }
      node.append(details);
    }
    return node;
  };
  const show = (article, row) => {
    const parts = [firstError(row.first_error)];
    if (row.label !== null) parts.push(`label: ${firstError(row.label)}`);
    if (row.answer !== null) parts.push(`reference answer: ${row.answer}`);
    parts.push(count(row.tokens.generated, "generated token"), `${row.seconds.toFixed(1)} s`);
    article.append(make("p", "meta", parts.join(" · ")));
    if (row.problem !== null) article.append(make("p", "problem", row.problem));
    row.steps.forEach((step, position) => article.append(stepNode(row, step, position)));
    if (row.solution) article.append(stepNode(row, { ...row.solution, step: "The solution as a whole" }, -1));
  };

  browse({
    filters: [
      ["Error found", (row) => outcome(row) === "wrong"],
      ["No error", (row) => outcome(row) === "right"],
      ["Differs from label", disagrees],
      ["Undecided", (row) => outcome(row) === "open"],
    ],
    entry,
    show,
    none: "No such row.",
  });
})();
