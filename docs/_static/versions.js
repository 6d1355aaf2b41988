// Lets readers choose among the versions that `versions.json` names, if the folder above this site
// has such a file. Each is a folder beside this one.

async function listVersions() {
  const root = new URL(document.documentElement.dataset.content_root, location.href);
  const response = await fetch(new URL("../versions.json", root));
  if (!response.ok) return;
  const select = document.getElementById("versions");
  const current = select.dataset.version;
  const versions = await response.json();
  if (!versions.includes(current)) versions.unshift(current);
  select.append(...versions.map((name) => new Option(name, name, false, name === current)));
  select.hidden = false;
  select.addEventListener("change", async () => {
    const chosen = new URL(`../${select.value}/`, root);
    const page = new URL(location.pathname.slice(root.pathname.length), chosen);
    const found = await fetch(page, { method: "HEAD" });
    location.href = found.ok ? page : chosen;
  });
}

// Browsers do not read files from files.
if (location.protocol !== "file:") listVersions().catch(() => {});
