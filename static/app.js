// The only hand-written script. Every page works without it; it makes some things quicker.
(() => {
  const on = (type, selector, act) =>
    document.addEventListener(type, (event) => {
      const found = event.target.closest?.(selector);
      if (found) act(found, event);
    });

  // ---- menus, dialogs, copying ---------------------------------------------------------------
  on("click", "[data-toggle]", (button) => {
    const open = document.querySelector(button.dataset.toggle).classList.toggle("show");
    button.setAttribute("aria-expanded", open);
  });
  on("click", "[data-dialog]", (button) => document.querySelector(button.dataset.dialog).showModal());
  on("click", "[data-copy]", async (button) => {
    const label = button.querySelector("[data-label]") ?? button;
    const before = label.textContent;
    const source = document.querySelector(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      label.textContent = "Copied";
    } catch {
      // Without TLS there is no clipboard: what is selected can be copied by hand.
      getSelection().selectAllChildren(source);
      label.textContent = "Selected";
    }
    setTimeout(() => { label.textContent = before; }, 2000);
  });

  // Menus close on Escape, where the focus goes back, and on a click elsewhere.
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
    if (menu) {
      menu.open = false;
      menu.firstElementChild.focus();
    }
  });
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });

  // ---- what went wrong behind the page -------------------------------------------------------
  const toast = (text) => {
    const box = document.createElement("div");
    box.className = "toastish";
    box.textContent = text;
    document.querySelector("[data-toasts]").append(box);
    setTimeout(() => box.remove(), 10_000);
  };
  const offline = (is) => { document.querySelector("[data-offline]").hidden = !is; };
  addEventListener("offline", () => offline(true));
  addEventListener("online", () => offline(false));
  document.addEventListener("htmx:sendError", () => offline(true));
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.xhr.status) offline(false);
  });
  document.addEventListener("htmx:responseError", (event) => {
    const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    toast(answer.querySelector("[data-error]")?.textContent.trim() || "The server could not do that.");
  });
  document.addEventListener("htmx:beforeRequest", (event) => event.detail.target.setAttribute("aria-busy", "true"));
  document.addEventListener("htmx:afterRequest", (event) => event.detail.target.removeAttribute("aria-busy"));

  // A page that nobody sees asks for nothing again.
  document.addEventListener("htmx:configRequest", (event) => {
    if (document.hidden && event.detail.elt.getAttribute("hx-trigger")?.startsWith("every")) event.preventDefault();
  });

  // A page that replaced the whole of the one before begins at its main part.
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.requestConfig?.boosted && event.detail.target === document.body) {
      document.querySelector("#main")?.focus();
    }
  });

  // Where a form did not fit, one goes on with the first field that is wrong.
  const amend = () => document.querySelector("[aria-invalid=true]")?.focus();
  amend();
  // Buttons rest while their form is under way, which takes the focus from them: they get it back,
  // unless the answer has something to read first ("autofocus") or to set right.
  let asked = "";
  document.addEventListener("htmx:beforeRequest", () => { asked = document.activeElement.id; });
  document.addEventListener("htmx:afterSettle", () => {
    if (document.activeElement === document.body && asked) document.getElementById(asked)?.focus();
    amend();
  });
  // A key in a form that did not fit is never sent back: what was typed stays typed.
  let typed = new Map();
  document.addEventListener("htmx:beforeSwap", () => {
    typed = new Map([...document.querySelectorAll("[type=password]")].map((key) => [key.id, key.value]));
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const key of document.querySelectorAll("[data-keep]")) key.value = typed.get(key.id) ?? "";
    typed.clear();
  });

  // A link that brought a secret leaves none in the history.
  if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname);

  // ---- selections ----------------------------------------------------------------------------
  // Shift-click takes a range, the box in the head all of the page; the count follows.
  let last = null;
  on("click", "input[name=ids]", (box, event) => {
    const boxes = [...document.querySelectorAll("input[name=ids]")];
    if (event.shiftKey && last) {
      const [from, to] = [boxes.indexOf(last), boxes.indexOf(box)].sort((x, y) => x - y);
      for (const between of boxes.slice(from, to + 1)) between.checked = box.checked;
    }
    last = box;
  });
  on("change", "form", (form, event) => {
    const boxes = [...form.querySelectorAll("input[name=ids]")];
    const all = form.querySelector("[data-check-all]");
    if (!boxes.length || !all) return;
    // All that match, on every page: a second step, which ends as soon as one box is changed.
    const match = form.querySelector("input[name=all]");
    if (event.target === all) for (const box of boxes) box.checked = all.checked;
    else if (event.target === match && match.checked) for (const box of boxes) box.checked = true;
    const count = boxes.filter((box) => box.checked).length;
    if (match && event.target !== match) match.checked = false;
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
    form.elements.n.value = match?.checked ? match.dataset.total : count;
  });

  // ---- the memory browser --------------------------------------------------------------------
  const rows = () => [...document.querySelectorAll("#list a.mem-text")];
  const opened = () => document.querySelector("#inspector-slot .inspector:not(.inspector-wait)");
  let row = null;  // Where the focus goes back to.
  const move = (step) => {
    const links = rows();
    const at = links.findIndex((link) => link === document.activeElement || link.closest("tr[aria-current]"));
    const next = links[at < 0 ? 0 : at + step];
    if (!next) return;
    if (opened()) next.click();
    else next.focus();
  };
  on("click", "[data-step]", (link, event) => {
    if (!rows().length) return;
    event.preventDefault();
    move(Number(link.dataset.step));
  });
  // The list stays as it is while one memory after another is looked at: its mark moves.
  const mark = () => {
    const id = opened()?.dataset.memory;
    const links = rows();
    const current = links.find((link) => link.id === `row-${id}`);
    for (const link of links) {
      if (link === current) link.closest("tr").setAttribute("aria-current", "true");
      else link.closest("tr").removeAttribute("aria-current");
    }
    for (const link of document.querySelectorAll("[data-step]")) {
      const to = links[links.indexOf(current) + Number(link.dataset.step)];
      if (current && to) {
        link.href = to.href;
        link.removeAttribute("aria-disabled");
        link.removeAttribute("role");
      } else {
        link.removeAttribute("href");
        link.setAttribute("aria-disabled", "true");
        link.setAttribute("role", "link");
      }
    }
    row = current ?? row;
    return current;
  };
  let held = false;  // Whether the focus is within what is about to be replaced.
  document.addEventListener("htmx:beforeSwap", (event) => {
    held = event.detail.target.contains(document.activeElement);
  });
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.target.id === "inspector-slot") {
      const current = mark();
      if (opened()) {
        current?.scrollIntoView({ block: "nearest" });
        document.querySelector("#inspector-title").focus({ preventScroll: true });
      } else {
        document.getElementById(row?.id)?.focus();
      }
    } else if (held && document.activeElement === document.body) {
      // What had the focus is gone with the old list.
      document.querySelector("#main")?.focus({ preventScroll: true });
    }
  });
  mark();
  document.addEventListener("keydown", (event) => {
    if (!document.querySelector("#browser") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input, textarea, select, dialog, details[open], [contenteditable]")) return;
    if (event.key === "Escape") {
      document.querySelector("[data-close]")?.click();
      return;
    }
    const inList = event.target.matches?.(".mem-text, #inspector-title");
    const step = { j: 1, k: -1, ...(inList && { ArrowDown: 1, ArrowUp: -1 }) }[event.key];
    if (!step) return;
    event.preventDefault();
    move(step);
  });
  // What a choice changes at once, unless there is nothing to ask for yet.
  on("change", "[data-submit]", (input) => {
    if (input.form.elements[input.dataset.submit].value.trim()) input.form.requestSubmit();
  });

  // ---- undo ----------------------------------------------------------------------------------
  // What can be undone floats for ten seconds, longer while somebody is at it.
  const float = () => {
    for (const form of document.querySelectorAll("#messages .probe > form")) {
      const box = form.parentElement;
      box.className = "toastish";
      box.querySelector(":scope > .icon").remove();
      document.querySelector("[data-toasts]").append(box);
      let timer = 0;
      const leave = () => { clearTimeout(timer); timer = setTimeout(() => box.remove(), 10_000); };
      const stay = () => clearTimeout(timer);
      for (const type of ["mouseenter", "focusin"]) box.addEventListener(type, stay);
      for (const type of ["mouseleave", "focusout"]) box.addEventListener(type, leave);
      leave();
    }
  };
  document.addEventListener("htmx:afterSettle", float);
  float();

  // ---- single keys ---------------------------------------------------------------------------
  // A control with <kbd>K</kbd> answers to K, unless somebody is typing or has a dialog open.
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, dialog, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = [...document.querySelectorAll("kbd")].find(
      (kbd) => kbd.textContent.toLowerCase() === event.key.toLowerCase(),
    );
    const control = key?.closest("button, a") ?? key?.parentElement.querySelector("input");
    if (!control || control.disabled) return;
    event.preventDefault();
    if (control.matches("input")) control.focus();
    else control.click();
  });
})();
