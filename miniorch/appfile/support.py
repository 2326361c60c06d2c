"""`docs/compose.md` from the table of keys, so that it cannot lie. A test compares them.

.venv/bin/python -m miniorch.appfile.support > docs/compose.md
"""

import sys

from miniorch.appfile.keys import PARTS, Verdict

HEAD = """# Compose files: what becomes of each key

This page is made from the table that the reader itself uses: `python -m miniorch.appfile.support > docs/compose.md`.

- **honoured**: it means here what it means in Compose.
- **approximated**: it has an effect, and not quite that one; the table says how.
- **ignored**: the app runs without it; the table says why. `--strict` refuses a file with such a key.

`plan --report` has also **default**: what holds because the file says nothing, and would be otherwise in Compose.

A key that is not in the table is an error, with the nearest known one; keys that begin with `x-` are yours. `run` and
`plan` say in one line what is not honoured, `miniorch plan --report` gives every key with its place, `miniorch config`
prints the file as it was understood, and `miniorch explain E0102` teaches the code of an error.

Files of version 1 (services at the top), 2 and 3 and of today's specification are read, several at once (`-f`), with
`include`, `extends`, profiles, anchors, merge keys, `!reset` and `!override`; so are `COMPOSE_FILE`,
`COMPOSE_PROJECT_NAME` and `COMPOSE_PROFILES`, where no option says otherwise.

## On purpose not as Compose has it

- A variable that nobody has set is an error, and not the empty text: write `${NAME:-default}`.
- Without a key `restart` a task that ends gets a successor, as in Swarm mode: what runs once needs `restart: "no"`.
  A service that others wait for to complete (`service_completed_successfully`), and one that is named in
  `volumes_from`, is a job and may end well.
- Without a key `init` a container has an init process, as with `init: true`.
- Values follow YAML 1.2: `yes`, `on` and `022` are texts, `22:22` is no number. Where true or false is wanted, `yes`,
  `on`, `no` and `off` will do.
- A line of a file of variables (`.env`, `env_file`) that sets none is an error.
- A dependency on `service_healthy` without a `healthcheck` is met as soon as the service runs: a check that the image
  has is not used.
- Services reach each other when they share a network, by name and by address; others are refused at once. A service
  that names none is on `default`. Networks are an app's own: another app's are never shared, `external` or not. One
  set of names serves all networks of an app: an alias is known on every network of its service.
- A port is published on every node, on all addresses or on 127.0.0.1; one on another address is refused.
- A path below `volumes` is mounted from the node where the task runs, and must be there: no empty folder is made. One
  that starts from the file's folder must be there when the file is read.
- Of Swarm's templates, `{{.Service.Name}}`, `{{.Service.ID}}`, `{{.Task.Name}}`, `{{.Task.ID}}`, `{{.Task.Slot}}`,
  `{{.Node.Hostname}}` and `{{.Node.ID}}` are filled in, in `environment` and `hostname`.
- A volume without a name gets one, so that its data outlives the task.
- Of classic Swarm, `constraint:` and `affinity:` in the environment are taken out of it and are placement rules; so
  are Swarm mode's below `deploy`, and Marathon's below `x-miniorch`: [scheduling.md](scheduling.md) has all of them.
"""

TITLES = {
    "file": "At the top of the file", "service": "A service", "port": "A port, in the long form",
    "mount": "A volume of a service, in the long form", "dependency": "A service below depends_on",
    "app network": "A network at the top of the file", "network": "A network of a service",
    "volume": "A volume at the top of the file",
    "file source": "A secret or config at the top of the file", "file reference": "A secret or config of a service",
    "env file": "A file below env_file, in the long form", "limits": "resources: limits",
    "reservations": "resources: reservations", "restart_policy": "deploy: restart_policy",
    "x-miniorch": "x-miniorch: what Compose has no key for",
    "preferred": "A rule below x-miniorch that is preferred", "placement": "deploy: placement",
    "preference": "deploy: placement: preferences", "generic resource": "reservations: generic_resources",
    "discrete resource": "reservations: generic_resources: discrete_resource_spec",
}  # fmt: skip


def page() -> str:
    """The whole page as Markdown."""
    lines = [HEAD]
    for part, keys in PARTS.items():
        lines += [f"## {TITLES.get(part, part)}", "", "| key | | |", "| --- | --- | --- |"]
        for key in keys.values():
            verdict = "see below" if key.verdict is Verdict.PART else key.verdict.value
            lines.append(f"| `{key.name}` | {verdict} | {key.why} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page())
