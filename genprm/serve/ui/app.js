"use strict";
// Judging: sends a problem and a solution, and shows steps as they are judged.
const EXAMPLES = [
  ["A wrong step", "Ann sold 48 clips in April and half as many in May. How many did she sell altogether?",
    "Step 1: In May she sold 48/2 = 24 clips.\n\nStep 2: Altogether 48+24 = 73 clips. The answer is \\boxed{73}."],
  ["All right", "A gardener plants 3 rows of tomatoes with 17 plants in each row. Each plant gives 2 kilograms of tomatoes. How many kilograms are harvested?",
    "Step 1: There are 3*17 = 51 plants.\n\nStep 2: They give 51*2 = 102 kilograms. The answer is \\boxed{102}."],
  ["Algebra", "Solve $x^2 - 5x + 6 = 0$.",
    "We factor: $x^2 - 5x + 6 = (x-2)(x-3)$.\n\nSo $x = 2$ or $x = 3$.\n\nThe sum of the solutions is $2 + 3 = 6$, and the answer is \\boxed{\\{2, 3\\}}."],
];

const say = (text, failed = false) => {
  byId("status").textContent = text;
  byId("status").className = failed ? "failed" : "";
};
for (const [place, [name]] of EXAMPLES.entries()) {
  const option = make("option", "", name);
  option.value = String(place);
  byId("example").append(option);
}
byId("example").addEventListener("change", (event) => {
  const example = EXAMPLES[Number(event.target.value)];
  if (event.target.value === "" || !example) return;
  [, byId("problem").value, byId("solution").value] = example;
});
byId("key").addEventListener("change", (event) => sessionStorage.setItem("genprm-key", event.target.value));

// Server-sent events of a POST, which EventSource does not support.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const block = text.slice(0, end);
      text = text.slice(end + 2);
      const kind = block.match(/^event: (.*)$/m)?.[1];
      const data = block.match(/^data: (.*)$/m)?.[1];
      if (kind && data) yield [kind, JSON.parse(data)];
    }
  }
}

let underWay = null;
const judge = async () => {
  underWay?.abort();
  const abort = underWay = new AbortController();
  byId("go").disabled = true;
  byId("stop").hidden = false;
  byId("steps").replaceChildren();
  say("Waiting for the judge …");
  let nodes = [];
  try {
    const body = { problem: byId("problem").value, solution: byId("solution").value, stream: true };
    const response = await ask("/v1/judge", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: abort.signal,
    });
    for await (const [kind, data] of eventsOf(response)) {
      if (kind === "open") {
        nodes = data.items[0].steps.map((step, place) => make("div", "step waiting", make("div", "head",
          make("span", "number", String(place + 1)), rich(make("div", "text"), step), make("span", "badge", "waiting"))));
        byId("steps").append(...nodes);
        say(`Judging step 0 of ${nodes.length} …`);
      } else if (kind === "step") {
        const node = stepNode(data, data.index, 0.5, true);
        nodes[data.index].replaceWith(node);
        nodes[data.index] = node;
        say(data.index + 1 < nodes.length ? `Judging step ${data.index + 1} of ${nodes.length} …` : "Finishing …");
      } else if (kind === "row") {
        data.steps.forEach((step, place) => {
          const node = stepNode(step, place, data.threshold, true, place === data.first_error);
          nodes[place].replaceWith(node);
          nodes[place] = node;
        });
        say(`Done: ${firstError(data.first_error)}. ${data.tokens.generated} tokens in ${data.seconds.toFixed(1)} s.`);
      } else if (kind === "error") throw new Error(data.error.message);
    }
  } catch (error) {
    if (underWay === abort || !abort.signal.aborted) say(abort.signal.aborted ? "Stopped." : error.message, !abort.signal.aborted);
  } finally {
    if (underWay === abort) {
      underWay = null;
      byId("go").disabled = false;
      byId("stop").hidden = true;
    }
  }
};
byId("form").addEventListener("submit", (event) => { event.preventDefault(); judge(); });
byId("stop").addEventListener("click", () => underWay?.abort());
byId("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
});

ask("/v1/models").then((response) => response.json())
  .then(({ data }) => { byId("subtitle").textContent = data[0].id.split("/").pop(); })
  .catch(() => undefined);
