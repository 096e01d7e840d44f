(() => {
  const count = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;

  const outcome = (row) => (row.first_error === null ? "open" : row.first_error < 0 ? "right" : "wrong");
  const firstError = (index) =>
    index === null || index === undefined ? "undecided" : index < 0 ? "no error" : `error at step ${index + 1}`;
  const disagrees = (row) => row.label !== null && row.label !== row.first_error;
  const threshold = Number(metrics.processbench?.threshold ?? info.config.threshold ?? 0.5);

  // ---- head -------------------------------------------------------------------------------------------------------
  const files = [].concat(info.config.files ?? []).map((one) => (one.file ?? one).split("/").pop());
  head(`${info.command} ${files.join(" ")}`, [info.config.model, info.facts.engine, info.facts.sandbox]);
  fact("rows", whole(metrics.rows), metrics.interrupted ? "stopped early" : "");
  fact("without an error", whole(metrics.judged_right));
  fact("with an error", whole(metrics.judged_wrong));
  if (metrics.undecided) fact("undecided", whole(metrics.undecided),
    Object.entries(metrics.undecided_reasons ?? {}).slice(0, 3).map(([why, n]) => `${whole(n)}: ${why}`).join("; "));
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
    for (const score of scores.slice(0, 60)) node.append(make("i", stepClass(score, threshold)));
    return node;
  };
  const entry = (row) => {
    const word = firstError(row.first_error) + (disagrees(row) ? " ≠ label" : "");
    return [make("div", "entry", make("span", "", row.id), make("span", `word ${outcome(row)}`, word)),
      strip(row.whole === null ? row.scores : [...row.scores, row.whole]), make("div", "excerpt", row.excerpt)];
  };

  // ---- a row ------------------------------------------------------------------------------------------------------
  const stepNode = (row, step, position) => {
    const solution = position < 0;
    const verdict = solution ? (step.score === null ? null : step.score < row.threshold ? "No" : "Yes") : row.verdicts[position];
    const kind = stepClass(step.score, row.threshold);
    const badge = make("span", `badge ${kind}`, verdict === null ? "no score" : `${verdict} ${number(step.score)}`);
    const labelled = !solution && position === row.label;
    const text = rich(make("span", "text"), step.step ?? "(text not kept)");
    const node = make("section", `step${!solution && position === row.first_error ? " first" : ""}${labelled ? " labelled" : ""}`,
      make("div", "head", make("span", "number", solution ? "" : String(position + 1)), text,
        make("span", "badges", labelled ? make("span", "badge flag", "labelled first error") : null, badge)));
    node.setAttribute("aria-label", solution ? "The whole solution" : `Step ${position + 1}: ${badge.textContent}`);
    if (step.reason) node.append(make("p", "notice", step.reason));
    if (step.chains.some((chain) => chain.text || chain.code.length)) {
      const title = step.chains.length === 1 ? "How it was judged" : `How ${step.chains.length} chains judged it`;
      node.append(folded(title, (details) => votes(details, step.chains, row.threshold), solution || position === row.first_error || row.steps.length <= 3));
    }
    return node;
  };
  const show = (article, row) => {
    const parts = [firstError(row.first_error)];
    if (row.label !== null) parts.push(`label: ${firstError(row.label)}`);
    if (row.answer !== null) parts.push(`reference answer: ${row.answer}`);
    parts.push(count(row.tokens.generated, "generated token"), `${row.seconds.toFixed(1)} s`);
    article.append(make("p", "meta", parts.join(" · ")));
    if (row.reason) article.append(make("p", "notice", `Undecided: ${row.reason}`));
    if (row.problem !== null) article.append(rich(make("p", "problem"), row.problem));
    if (row.thoughts) article.append(folded("The model's thoughts, not judged", (details) => details.append(make("p", "prose", row.thoughts))));
    row.steps.forEach((step, position) => article.append(stepNode(row, step, position)));
    if (row.solution) article.append(stepNode(row, { ...row.solution, step: "The solution as a whole" }, -1));
  };

  // ---- charts -----------------------------------------------------------------------------------------------------
  // Steps before the labelled error are right, the labelled step is wrong, and later steps count as neither.
  const told = (row, position) => (row.label === null ? null : row.label < 0 || position < row.label ? true : position === row.label ? false : null);
  const bins = Array.from({ length: 10 }, () => ({ right: 0, wrong: 0, open: 0, score: 0 }));
  for (const row of index) {
    row.scores.forEach((score, position) => {
      if (score === null) return;
      const bin = bins[Math.min(9, Math.floor(10 * score))];
      const truth = told(row, position);
      bin[truth === null ? "open" : truth ? "right" : "wrong"] += 1;
      if (truth !== null) bin.score += score;
    });
  }
  const names = bins.map((_, place) => (place / 10).toFixed(1));
  const series = [["right by the label", "right"], ["first error by the label", "wrong"], ["without a label", "open"]]
    .map(([name, key]) => ({ name, style: key, values: bins.map((bin) => bin[key]) })).filter((one) => one.values.some(Boolean));
  bars("Scores of the steps", "score", names, series, 2);
  reliability("Calibration: share of right steps at each score", "mean score", bins
    .map((bin) => ({ n: bin.right + bin.wrong, x: bin.score / (bin.right + bin.wrong), y: bin.right / (bin.right + bin.wrong) })).filter((bin) => bin.n));

  browse({
    filters: [
      ["Error found", (row) => outcome(row) === "wrong"],
      ["No error", (row) => outcome(row) === "right"],
      ["Differs from label", disagrees],
      ["Undecided", (row) => outcome(row) === "open"],
    ],
    entry,
    show,
    isError: (row) => outcome(row) === "wrong",
    none: "No such row.",
  });
})();
