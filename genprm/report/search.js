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
  // With all solutions, pass@k equals pass@n.
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
    const steps = judged.filter((step) => (step.chains ?? []).some((chain) => chain.text || chain.code.length));
    if (!steps.length) return null;
    return folded("How it was judged", (details) => {
      judged.forEach((step, position) => {
        if (!(step.chains ?? []).length) return;
        details.append(make("div", "chain", make("p", "label", `Step ${position + 1}`)));
        votes(details, step.chains, threshold);
      });
    });
  };
  const stepLine = (text, score, position) => make("div", "head", make("span", "number", String(position + 1)),
    rich(make("span", "text plain"), text), score === undefined ? null : make("span", `badge ${shade(score)}`, number(score)));
  // An answer is usually bare TeX; without a command it is text.
  const asFormula = (answer) => (/\\[a-zA-Z]/.test(answer) && !/\$|\\text/.test(answer) ? `$${answer}$` : answer);
  const candidateNode = (one, title, badge, kind, judged) => {
    const node = make("section", "step candidate",
      make("div", "head", make("span", "number", title), one.answer === null ? make("span", "text", "no answer") : rich(make("span", "text"), asFormula(one.answer)),
        make("span", `badge ${kind}`, badge)));
    node.append(folded(`${one.steps.length} step${one.steps.length === 1 ? "" : "s"}${one.finished ? "" : ", never ended"}`, (details) =>
      one.steps.forEach((step, position) => details.append(stepLine(step, one.scores[position], position)))));
    if (one.copies > 1) node.append(make("p", "label", `Sampled ${one.copies} times`));
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
    const leaf = (place) => {
      const node = row.nodes[place];
      const ended = answers.get(place);
      const state = ended && ended.finished ? ended.answer ?? "no answer" : node.state;
      const item = make("li", "", make("div", `node ${node.state}`, make("span", `badge ${shade(node.score)}`, number(node.score)),
        rich(make("span", "text plain"), node.steps.join("\n\n") || "(nothing)"), make("span", `word ${ended ? mark(ended.correct) : ""}`, state)));
      if (children.has(place)) item.append(branch(place));
      return item;
    };
    const branch = (parent) => {
      const list = make("ul", "tree");
      const places = children.get(parent) ?? [];
      const doubles = places.filter((place) => row.nodes[place].state === "duplicate");
      list.append(...places.filter((place) => row.nodes[place].state !== "duplicate").map(leaf));
      // Skip duplicates.
      if (doubles.length) list.append(make("li", "", folded(`${doubles.length} duplicate${doubles.length === 1 ? "" : "s"} of these`, (details) => {
        details.append(make("ul", "tree"));
        details.lastChild.append(...doubles.map(leaf));
      })));
      return list;
    };
    return branch(-1);
  };
  const showSearch = (article, row) => {
    article.append(make("h3", "", "Solutions, best first"));
    for (const { one, place } of ranked(row)) {
      const chosen = place === row.chosen;
      const badge = `score ${number(one.score)} · ${one.finished ? word(one.correct) : "unfinished"}${chosen ? " · chosen" : ""}`;
      const node = candidateNode(one, `candidate ${place + 1}`, badge, one.finished ? mark(one.correct) : "open");
      if (chosen) node.className += " chosen";
      article.append(node);
    }
    if (row.nodes.length) article.append(make("h3", "", "Tree"), tree(row));
  };
  const showTurns = (article, row) => {
    row.turns.forEach((turn, place) => {
      const said = turn.accepted ? "accepted" : turn.first_error === null ? "undecided" : `step ${turn.first_error + 1} rejected`;
      const node = candidateNode(turn, `turn ${place}`, `${word(turn.correct)} · ${said}${place === row.chosen ? " · kept" : ""}`, mark(turn.correct));
      if (place === row.chosen) node.className += " chosen";
      if (turn.message) node.append(make("div", "chain", make("p", "label", "Critique for the policy"), rich(make("p", "prose"), turn.message)));
      article.append(node);
    });
  };
  const show = (article, row) => {
    const parts = [`answer: ${row.prediction ?? "none"}`];
    if (row.answer !== null) parts.push(`reference: ${row.answer}`);
    parts.push(`tokens: policy ${whole(row.policy.generated)}, PRM ${whole(row.prm.generated)}`, `${row.seconds.toFixed(1)} s`);
    article.append(make("p", "meta", parts.join(" · ")), rich(make("p", "problem"), row.problem));
    if (row.turns) showTurns(article, row); else showSearch(article, row);
  };

  // ---- charts -----------------------------------------------------------------------------------------------------
  const METHODS = [["best-of-n", "PRM, best", "one"], ["weighted", "PRM, weighted vote", "two"], ["majority", "majority", "three"], ["pass@n", "pass@n (bound)", "bound"]];
  const costs = new Map((metrics.costs ?? []).map((point) => [point.n, point]));
  const curves = (xOf) => METHODS.map(([method, name, style]) => ({
    name, style,
    points: (metrics.best_of_n?.methods ?? []).filter((point) => point.method === method)
      .map((point) => ({ x: xOf(method, point.n), y: point.accuracy, low: style === "one" ? point.low : null, high: point.high })).filter((point) => point.x > 0),
  })).filter((one) => one.points.length > 1);
  lines("Accuracy against the number of solutions", "solutions per problem", curves((method, n) => n));
  lines("Accuracy against tokens", "generated tokens per problem, policy and PRM", curves((method, n) => {
    const cost = costs.get(n);
    return cost ? cost.policy + (method === "best-of-n" || method === "weighted" ? cost.prm : 0) : 0;
  }));
  if (metrics.turns?.length > 1) {
    lines("Accuracy by turn", "turns", [{ name: "accuracy", style: "one", points: metrics.turns.map((turn) => ({ x: turn.turn + 1, y: turn.accuracy, low: turn.low, high: turn.high })) }]);
  }
  const scored = (want) => Array.from({ length: 10 }, (_, bin) => index.reduce((sum, row) => sum + row.rewards.filter(([score, correct]) =>
    score !== null && correct === want && Math.min(9, Math.floor(10 * score)) === bin).length, 0));
  bars(metrics.turns ? "Scores of the answers of all turns" : "Scores of the candidates", "score", Array.from({ length: 10 }, (_, bin) => (bin / 10).toFixed(1)),
    [{ name: "right", style: "right", values: scored(true) }, { name: "wrong", style: "wrong", values: scored(false) }, { name: "not compared", style: "open", values: scored(null) }]
      .filter((one) => one.values.some(Boolean)), 2);

  browse({
    filters: [
      ["Right", (row) => row.correct === true],
      ["Wrong", (row) => row.correct === false],
      ["Right solution not chosen", (row) => row.possible && row.correct !== true],
      ["No answer", (row) => row.prediction === null],
    ],
    entry,
    show,
    isError: (row) => row.correct === false,
    none: "No such problem.",
  });
})();
