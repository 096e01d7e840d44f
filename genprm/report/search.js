(() => {
  const mark = (correct) => (correct === true ? "right" : correct === false ? "wrong" : "open");
  const word = (correct) => (correct === true ? "right" : correct === false ? "wrong" : "not compared");
  const threshold = Number(info.config["prm.threshold"] ?? info.config.threshold ?? 0.5);
  const shade = (score) => (score === null || score === undefined ? "open" : score < threshold ? "wrong" : "right");

  // ---- head -------------------------------------------------------------------------------------------------------
  head([info.command, info.config.description || info.config.method].filter(Boolean).join(": "),
    [info.config["policy.model"] ?? info.config.policy, info.config["prm.model"] ?? info.config.model, info.facts.sandbox]);
  fact("problems", whole(metrics.rows), metrics.interrupted ? "stopped early" : "");
  if (metrics.accuracy !== null && metrics.accuracy !== undefined) fact("accuracy of the choice", percent(metrics.accuracy), range(metrics));
  for (const turn of metrics.turns ?? []) fact(`after turn ${turn.turn}`, percent(turn.accuracy), range(turn));
  const last = metrics.turns?.at(-1);
  if (last) fact("fixed · broken", `${whole(last.fixed)} · ${whole(last.broken)}`);
  const largest = {};
  if (!metrics.turns) for (const row of metrics.best_of_n?.methods ?? []) largest[row.method] = row;
  // With all solutions there is one choice of n: pass@k says what pass@n says.
  delete largest["pass@k"];
  for (const [name, row] of Object.entries(largest)) fact(name === "pass@1" ? name : `${name}, n = ${row.n}`, percent(row.accuracy), range(row));
  if (metrics.failed) fact("failed", whole(metrics.failed));
  for (const [name, tokens] of Object.entries(metrics.tokens ?? {})) fact(`tokens, ${name}`, whole(tokens.generated));

  // ---- list -------------------------------------------------------------------------------------------------------
  const entry = (row) => [
    make("div", "entry", make("span", "", row.id), make("span", `word ${mark(row.correct)}`, row.prediction ?? "no answer")),
    make("div", "excerpt", row.excerpt)];

  // ---- a problem --------------------------------------------------------------------------------------------------
  const chains = (judged) => {
    const texts = judged.flatMap((step) => step.chains ?? []).filter((chain) => chain.text);
    if (!texts.length) return null;
    const details = make("details", "", make("summary", "", "How it was judged"));
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      for (const chain of texts) {
        details.append(make("div", "chain", make("pre", "", chain.text)));
      }
    });
    return details;
  };
  const stepLine = (text, score, position) => make("div", "head", make("span", "number", String(position)),
    make("span", "text plain", text), score === undefined ? null : make("span", `badge ${shade(score)}`, number(score)));
  const candidateNode = (one, title, badge, kind, judged) => {
    const node = make("section", "step candidate",
      make("div", "head", make("span", "number", title), make("span", "text", one.answer === null ? "no answer" : one.answer),
        make("span", `badge ${kind}`, badge)));
    const details = make("details", "", make("summary", "", `${one.steps.length} steps${one.finished ? "" : ", never ended"}`));
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      one.steps.forEach((step, position) => details.append(stepLine(step, one.scores[position], position)));
    });
    node.append(details);
    if (one.reason) node.append(make("p", "notice", one.reason));
    const how = chains(judged ?? one.judged ?? []);
    if (how) node.append(how);
    return node;
  };
  const ranked = (row) => {
    const rank = (one) => (one.finished ? 1e6 : 0) + (one.reward === null ? -1e5 : one.reward);
    return row.candidates.map((one, place) => ({ one, place })).sort((a, b) => rank(b.one) - rank(a.one) || a.place - b.place);
  };
  const tree = (row) => {
    const children = new Map();
    row.nodes.forEach((node, place) => {
      if (!children.has(node.parent)) children.set(node.parent, []);
      children.get(node.parent).push(place);
    });
    const answers = new Map(row.candidates.filter((one) => one.node !== null).map((one) => [one.node, one]));
    const branch = (parent) => {
      const list = make("ul", "tree");
      for (const place of children.get(parent) ?? []) {
        const node = row.nodes[place];
        const ended = answers.get(place);
        const text = node.steps.join("\n\n") || "(nothing)";
        const line = make("div", `node ${node.state}`, make("span", `badge ${shade(node.score)}`, number(node.score)),
          make("span", "text plain", text), make("span", `word ${ended ? mark(ended.correct) : ""}`, ended && ended.finished ? ended.answer ?? "no answer" : node.state));
        const item = make("li", "", line);
        if (children.has(place)) item.append(branch(place));
        list.append(item);
      }
      return list;
    };
    return branch(-1);
  };
  const showSearch = (article, row) => {
    article.append(make("h3", "", "Solutions, best first"));
    for (const { one, place } of ranked(row)) {
      const chosen = place === row.chosen;
      const badge = `score ${number(one.score)} · ${one.finished ? word(one.correct) : "unfinished"}${chosen ? " · chosen" : ""}`;
      const node = candidateNode(one, `${place + 1}`, badge, one.finished ? mark(one.correct) : "open");
      if (chosen) node.className += " chosen";
      article.append(node);
    }
    if (row.nodes.length) article.append(make("h3", "", "Tree"), tree(row));
  };
  const showTurns = (article, row) => {
    row.turns.forEach((turn, place) => {
      const said = turn.accepted ? "accepted" : turn.first_error === null ? "undecided" : `step ${turn.first_error} rejected`;
      const node = candidateNode(turn, `turn ${place}`, `${word(turn.correct)} · ${said}${place === row.chosen ? " · kept" : ""}`, mark(turn.correct));
      if (place === row.chosen) node.className += " chosen";
      if (turn.message) node.append(make("div", "chain", make("p", "label", "What the policy was told"), make("p", "prose", turn.message)));
      article.append(node);
    });
  };
  const show = (article, row) => {
    const parts = [`answer: ${row.prediction ?? "none"}`];
    if (row.answer !== null) parts.push(`reference: ${row.answer}`);
    parts.push(`tokens: policy ${whole(row.policy.generated)}, PRM ${whole(row.prm.generated)}`, `${row.seconds.toFixed(1)} s`);
    article.append(make("p", "meta", parts.join(" · ")), make("p", "problem", row.problem));
    if (row.turns) showTurns(article, row); else showSearch(article, row);
  };

  browse({
    filters: [
      ["Right", (row) => row.correct === true],
      ["Wrong", (row) => row.correct === false],
      ["Right one passed over", (row) => row.possible && row.correct !== true],
      ["No answer", (row) => row.prediction === null],
    ],
    entry,
    show,
    none: "No such problem.",
  });
})();
