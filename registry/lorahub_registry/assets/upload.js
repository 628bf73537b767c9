// Files that are chosen, or dropped on the form, are sent and checked at once, and what was found is shown; publishing
// them then sends no byte again. The form works without this.
"use strict";

class Upload {
  constructor(form) {
    this.form = form;
    this.input = form.querySelector("input[type=file]");
    this.list = form.querySelector("[data-chosen]");
    this.bar = form.querySelector("[data-sending]");
    this.found = document.querySelector("[data-found]");
    this.request = null;
    this.isWanted = false;  // publishing was asked for before the check was over
    this.input.addEventListener("change", () => this.choose());
    form.addEventListener("submit", (event) => this.submit(event));
    this.found.addEventListener("submit", () => this.copyTitle());
    this.takeDrops(form.querySelector(".drop"));
  }

  takeDrops(area) {
    const over = (event) => {
      event.preventDefault();
      area.classList.toggle("over", event.type === "dragover");
    };
    for (const kind of ["dragover", "dragleave", "drop"]) this.form.addEventListener(kind, over);
    this.form.addEventListener("drop", (event) => {
      if (event.dataTransfer.files.length === 0) return;
      this.input.files = event.dataTransfer.files;
      this.choose();
    });
  }

  get files() {
    return Array.from(this.input.files);
  }

  get checked() {
    return this.found.querySelector("form");
  }

  choose() {
    this.list.replaceChildren(...this.files.map((file) => {
      const line = document.createElement("li");
      line.textContent = `${file.name}, ${file.size.toLocaleString()} bytes`;
      return line;
    }));
    this.list.hidden = this.files.length === 0;
    this.check();
  }

  check() {
    const before = this.request;
    this.request = null;
    before?.abort();
    this.isWanted = false;
    this.bar.hidden = true;
    this.found.replaceChildren();
    if (this.files.length === 0) return;
    const total = this.files.reduce((sum, file) => sum + file.size, 0);
    if (total > Number(this.form.dataset.upload)) {
      this.say("These files are larger together than this form takes. lorahub push takes them.");
      return;
    }
    const body = new FormData(this.form);
    body.set("check", "1");
    const request = new XMLHttpRequest();
    request.open("POST", this.form.action);
    request.setRequestHeader("Accept", "text/html");
    request.upload.addEventListener("progress", (event) => this.progress(event.loaded, event.total));
    request.addEventListener("load", () => this.show(request.responseText));
    request.addEventListener("error", () => this.say("The files could not be sent. Publish, or check again, to retry."));
    request.addEventListener("loadend", () => this.over(request));
    this.request = request;
    this.progress(0, total);
    request.send(body);
  }

  progress(sent, total) {
    this.bar.hidden = false;
    const [bar, words] = this.bar.children;
    bar.max = total || 1;
    bar.value = sent;
    words.textContent = sent < total ? `${Math.floor(100 * sent / total)} % sent` : "Sent; being checked";
  }

  show(text) {
    const page = new DOMParser().parseFromString(text, "text/html");
    const section = page.querySelector("[data-found] > section");
    if (section) this.found.replaceChildren(document.adoptNode(section));
    else this.say(page.querySelector("main .lead")?.textContent || "The registry gave no answer that can be shown.");
  }

  over(request) {
    if (request !== this.request) return;  // others were chosen meanwhile
    this.request = null;
    this.bar.hidden = true;
    if (this.isWanted && this.checked) this.checked.requestSubmit();
    this.isWanted = false;
  }

  submit(event) {
    const isCheck = event.submitter?.name === "check";
    if (isCheck || this.request || this.checked) event.preventDefault();
    if (isCheck) this.check();
    else if (this.request) this.isWanted = true;
    else if (this.checked) this.checked.requestSubmit();
  }

  copyTitle() {
    this.checked.elements.title.value = this.form.elements.title.value;
  }

  say(text) {
    const note = document.createElement("p");
    note.className = "note bad";
    note.setAttribute("role", "alert");
    note.textContent = text;
    this.found.replaceChildren(note);
  }
}

for (const form of document.querySelectorAll("form[data-upload]")) new Upload(form);
