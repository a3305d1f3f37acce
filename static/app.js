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

  // A page that replaced the whole of the one before begins at its main part.
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.requestConfig?.boosted) document.querySelector("#main")?.focus();
  });

  // Where a form did not fit, one goes on with the first field that is wrong.
  const amend = () => document.querySelector("[aria-invalid=true]")?.focus();
  amend();
  // Buttons rest while their form is under way, which takes the focus from them: they get it back,
  // unless the answer has something to read first ("autofocus") or to set right.
  let held = "";
  document.addEventListener("htmx:beforeRequest", () => { held = document.activeElement.id; });
  document.addEventListener("htmx:afterSettle", () => {
    if (document.activeElement === document.body && held) document.getElementById(held)?.focus();
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
    if (event.target === all) for (const box of boxes) box.checked = all.checked;
    const count = boxes.filter((box) => box.checked).length;
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
    form.elements.n.value = count;
  });

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
