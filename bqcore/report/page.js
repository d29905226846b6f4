"use strict";
(() => {
  const found = JSON.parse(document.getElementById("document").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Theme: the system's unless chosen.
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("change", (event) => {
    if (event.target.value === "auto") delete root.dataset.theme;
    else root.dataset.theme = event.target.value;
  });

  // Trade-off: before or after rescoring, or both.
  const show = (kind) =>
    all('[id^="tradeoff-codes-"], [id^="tradeoff-rescored-"]').forEach((element) => {
      element.style.display = kind === "both" || element.id.startsWith(`tradeoff-${kind}-`) ? "" : "none";
    });
  all('input[name="tradeoff"]').forEach((input) => input.addEventListener("change", () => show(input.value)));
  show("both");

  // Series of a figure: a box for each.
  all("input[data-series]").forEach((input) =>
    input.addEventListener("change", () => {
      all(`[id="${input.dataset.series}"], [id^="${input.dataset.series}-"]`).forEach((element) => {
        element.style.display = input.checked ? "" : "none";
      });
    }),
  );

  // Recall at a number of candidates, read off the curves of the document.
  const slider = document.getElementById("oversampling");
  const update = () => {
    const place = Number(slider.value);
    all("[data-curve]").forEach((cell) => {
      cell.textContent = found.candidates[cell.dataset.curve][place].recall.toFixed(3);
    });
    const first = Object.values(found.candidates)[0][place];
    document.getElementById("oversampling-value").textContent =
      `${first.oversampling} per row (${Math.round(first.oversampling * found.goal.k)} for ${found.goal.k})`;
  };
  slider.addEventListener("input", update);
  update();

  // Copying: the clipboard where the browser allows it for a file, else a selection.
  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };
  all("button[data-copy]").forEach((button) =>
    button.addEventListener("click", async () => {
      const element = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(element.textContent);
        button.textContent = "Copied";
      } catch {
        select(element);
        button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    }),
  );
  root.dataset.ready = "yes";
})();
