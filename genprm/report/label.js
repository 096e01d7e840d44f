(() => {
  const plural = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
  const outcomes = { equal: ["right answer", "right"], different: ["wrong answer", "wrong"] };
  const share = (value) => (value.rollouts ? value.successes / value.rollouts : null);

  // ---- head -------------------------------------------------------------------------------------------------------
  head("label: rollouts, values, step labels", [info.config.policy, [].concat(info.config.files ?? []).join(" "), info.config.method]);
  const NAMES = { problems: "problems", pass_at_1: "Pass@1", solutions_labelled: "solutions labelled", no_wrong_step: "no wrong step",
    a_wrong_step: "a wrong step", undecided: "undecided", steps: "steps", rollouts: "rollouts", generated_tokens: "generated tokens" };
  for (const [key, name] of Object.entries(NAMES)) {
    const value = metrics[key];
    if (value !== undefined && (value || key === "problems")) fact(name, key === "pass_at_1" ? percent(value) : whole(value));
  }
  for (const [key, value] of Object.entries(metrics)) if (key.startsWith("dropped: ")) fact(key, whole(value));

  // ---- list -------------------------------------------------------------------------------------------------------
  const entry = (row) => {
    const strip = make("div", "strip");
    for (const first of row.first_errors.slice(0, 60)) strip.append(make("i", first === null ? "open" : first < 0 ? "right" : "wrong"));
    const word = row.dropped ?? plural(row.first_errors.length, "solution");
    return [make("div", "entry", make("span", "", row.id), make("span", `word ${row.dropped ? "open" : ""}`, word)), strip, make("div", "excerpt", row.excerpt)];
  };

  // ---- a problem --------------------------------------------------------------------------------------------------
  const valueText = (value) => (value.exact ? "own answer" : value.rollouts ? `${value.successes} of ${value.rollouts}` : "no rollout");
  const solution = (row, one, place) => {
    const [said, kind] = outcomes[one.outcome] ?? [String(one.outcome).replaceAll("_", " "), "open"];
    const where = one.first_error === null ? "undecided" : one.first_error < 0 ? "no wrong step" : `first wrong step: ${one.first_error + 1}`;
    const node = make("section", "step", make("div", "head", make("span", "number", `solution ${place + 1}`),
      make("span", "text", where + (one.copies > 1 ? `, sampled ${one.copies} times` : "")), make("span", `badge ${kind}`, said)));
    const strip = make("div", "values");
    const bar = (value, label, title) => {
      const made = make("i", label === true ? "right" : label === false ? "wrong" : "open");
      made.style.height = `${Math.max(2, 100 * (share(value) ?? 0))}%`;
      made.title = title;
      return made;
    };
    if (row.start) strip.append(bar(row.start, null, `before the first step: ${valueText(row.start)}`));
    one.values.forEach((value, position) => strip.append(bar(value, one.labels[position]?.label ?? null, `after step ${position + 1}: ${valueText(value)}`)));
    node.append(make("div", "pad", make("p", "label", "Value before the first step, and after each step"), strip));
    node.append(folded(plural(one.steps.length, "step"), (details) => one.steps.forEach((text, position) => {
      const label = one.labels[position];
      const value = one.values[position];
      const verdict = label?.label === true ? ["right", "right"] : label?.label === false ? ["wrong", "wrong"] : [(label?.state ?? "no label").replaceAll("_", " "), "open"];
      const facts = [value ? valueText(value) : "", label?.progress === null || label?.progress === undefined ? "" : `progress ${label.progress.toFixed(2)}`,
        label?.probability === null || label?.probability === undefined ? "" : `P(right) ${label.probability.toFixed(2)}`].filter(Boolean).join(" · ");
      details.append(make("div", `head${position === one.first_error ? " first" : ""}`, make("span", "number", String(position + 1)),
        make("span", "", rich(make("div", "text plain"), text), make("div", "meta tight", facts)),
        make("span", `badge ${verdict[1]}`, verdict[0])));
    }), place === 0));
    return node;
  };
  const show = (article, row) => {
    const { right, wrong, unknown, invalid } = row.samples;
    article.append(make("p", "meta", [`reference answer: ${row.answer}`, `sampled: ${right} right, ${wrong} wrong`, unknown ? `${unknown} not compared` : "",
      invalid ? `${invalid} cut off` : "", row.budget ? `${row.budget} rollouts a step` : "", plural(row.rollouts, "rollout")].filter(Boolean).join(" · ")),
    rich(make("p", "problem"), row.problem));
    if (row.dropped) article.append(make("p", "notice", `No labels: ${row.dropped}.`));
    row.solutions.forEach((one, place) => article.append(solution(row, one, place)));
  };

  // ---- charts -----------------------------------------------------------------------------------------------------
  const found = index.flatMap((row) => row.first_errors).filter((first) => first !== null && first >= 0);
  if (found.length) {
    const most = Math.min(20, Math.max(...found));
    const counts = Array.from({ length: most + 1 }, (_, place) => found.filter((first) => Math.min(most, first) === place).length);
    bars("Where the first wrong step is", "step", counts.map((_, place) => String(place + 1)), [{ name: "solutions", style: "wrong", values: counts }], Math.ceil(counts.length / 10));
  }
  browse({
    filters: [
      ["Wrong step found", (row) => row.first_errors.some((first) => first !== null && first >= 0)],
      ["Undecided", (row) => row.first_errors.includes(null)],
      ["Dropped", (row) => row.dropped !== null],
    ],
    entry, show, none: "No such problem.",
    isError: (row) => row.first_errors.some((first) => first !== null && first >= 0),
  });
})();
