(() => {
  const first = (index) => (index === null || index === undefined ? "none named" : index < 0 ? "no wrong step" : `step ${index + 1}`);
  const WHY = { undecided: "the rollouts did not determine the first wrong step", disagrees: "the teacher names another first wrong step",
    no_verdict: "the teacher gave no valid conclusion", layout: "a paragraph's review has the wrong layout", code: "a paragraph's review has no code that ran",
    blocks: "a paragraph's review has more code blocks than the judge can write in a turn" };

  // ---- head -------------------------------------------------------------------------------------------------------
  head("synthesize: rationales with executed code", [info.config.teacher, info.config.labels, info.facts.sandbox]);
  fact("solutions", whole(metrics.solutions));
  fact("kept", whole(metrics.kept), metrics.solutions ? percent(metrics.kept / metrics.solutions) : "");
  fact("kept with a wrong step", whole(metrics.kept_with_a_wrong_step));
  for (const [key, value] of Object.entries(metrics)) {
    if (key.startsWith("dropped_") && value) fact(`dropped: ${key.slice(8).replaceAll("_", " ")}`, whole(value));
    if (key.startsWith("snippets_") && value) fact(`snippets ${key.slice(9).replaceAll("_", " ")}`, whole(value));
  }
  fact("generated tokens", whole(metrics.generated_tokens));

  // ---- list and a solution ----------------------------------------------------------------------------------------
  const entry = (row) => [
    make("div", "entry", make("span", "", row.id), make("span", `word ${row.kept ? "right" : "wrong"}`, row.kept ? "kept" : row.dropped.replaceAll("_", " "))),
    make("div", "excerpt", row.excerpt)];
  const show = (article, row) => {
    const snippets = Object.entries(row.snippets).map(([status, n]) => `${n} ${status.replaceAll("_", " ")}`).join(", ");
    article.append(make("p", "meta", [`by rollouts: ${first(row.label)}`, `by the teacher: ${first(row.first_error)}`, snippets ? `snippets: ${snippets}` : "",
      `teacher: ${row.teacher}`].filter(Boolean).join(" · ")), rich(make("p", "problem"), row.problem));
    if (row.dropped) article.append(make("p", "notice", `Dropped: ${WHY[row.dropped] ?? row.dropped}.`));
    row.steps.forEach((text, position) => article.append(make("section", `step${position === row.first_error ? " first" : ""}${position === row.label ? " labelled" : ""}`,
      make("div", "head", make("span", "number", String(position + 1)), rich(make("span", "text"), text),
        make("span", "badges", position === row.label ? make("span", "badge flag", "by rollouts") : null, position === row.first_error ? make("span", "badge wrong", "by the teacher") : null)))));
    if (row.messages.length) article.append(make("h3", "", "Critique"));
    for (const { role, content } of row.messages) {
      const node = make("section", "step", make("p", "label pad", role));
      const text = make("div", "chain");
      proseAndFences(text, content);
      node.append(text);
      article.append(node);
    }
  };
  browse({
    filters: [["Kept", (row) => row.kept], ...Object.keys(WHY).map((why) => [why.replaceAll("_", " "), (row) => row.dropped === why])],
    entry, show, none: "No such solution.", isError: (row) => !row.kept,
  });
})();
