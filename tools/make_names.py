#!/usr/bin/env python3
"""Writes src/game/names_NAME.c: short names by id, nothing else, from a JSON file of a game's tables.

usage: tools/make_names.py NAME IN.json OUT.c      (NAME: red, tinywoods)

IN.json: tables "species", "items", "moves", "traps", "dungeons": lists of {"id", "name", ...} or objects by id whose values are a
name or {"name", ...}; gaps are allowed. Also "money_table" and "actions" (or "enums"."actions") of {"id", "menu_text"}. A dungeon
may give "floors"; an item "use" (none, food, heal, throw, other). Without "use" it follows from the item's "effect" ("eat: ...",
"throw: ...", "use: ...") or, in the real game's tables, from category and name.
"""
import json
import sys

USES = ["none", "food", "heal", "throw", "other"]
# Real game: what gives HP back when eaten; a category alone does not say it.
HEALING = {"Oran Berry", "Sitrus Berry"}


def use_of(item):
    if "use" in item:
        return USES.index(item["use"])
    if "effect" in item:
        verb = item["effect"].split(":")[0]
        eaten = "heal" if "HP" in item["effect"] else "food"
        return USES.index({"eat": eaten, "throw": "throw", "use": "other"}.get(verb, "none"))
    category = item.get("category")
    if item.get("name") in HEALING:
        return USES.index("heal")
    if category in (0, 1):
        return USES.index("throw")
    if category == 3 and item.get("action") == "food":
        return USES.index("food")
    return USES.index("other" if category in (2, 9) and item.get("id") else "none")


def quote(name):
    return "NULL" if not name else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def wrap(parts):
    lines, line = [], "   "
    for part in parts:
        if len(line) + len(part) + 2 > 128:
            lines.append(line)
            line = "   "
        line += " " + part + ","
    return "\n".join(lines + [line])


def rows_of(values, nothing):
    """Initialisers; with their index where most ids are unused."""
    sparse = values.count(nothing) * 2 > len(values)
    return [f"[{i}] = {v}" for i, v in enumerate(values) if v != nothing] if sparse else values


def by_id(rows):
    if isinstance(rows, dict):
        rows = [dict(v if isinstance(v, dict) else {"name": v}, id=int(k)) for k, v in rows.items()]
    table = [None] * (max((row["id"] for row in rows), default=-1) + 1)
    for row in rows:
        table[row["id"]] = row
    return table


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    name, source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as f:
        data = json.load(f)
    actions = data.get("actions") or data.get("enums", {}).get("actions", [])
    tables = {k: by_id(data.get(k, [])) for k in ("species", "items", "moves", "traps", "dungeons")}
    tables["actions"] = by_id(actions)
    out = [f"/* Names by id. Written by tools/make_names.py from the tables of `{name}`; do not edit. */",
           '#include "game/layout.h"', ""]
    for kind, table in tables.items():
        field = "menu_text" if kind == "actions" else "name"
        out += [f"static const char *const {kind}[{max(1, len(table))}] = {{", wrap(rows_of([quote((r or {}).get(field)) for r in table], "NULL") or ["NULL"]), "};", ""]
    uses = [str(use_of(r)) if r else "0" for r in tables["items"]]
    floors = [str((r or {}).get("floors") or 0) for r in tables["dungeons"]]
    money = [str(v) for v in data.get("money_table", [])]
    out += [f"static const uint8_t item_use[{max(1, len(uses))}] = {{", wrap(rows_of(uses, "0") or ["0"]), "};", "",
            f"static const uint8_t dungeon_floors[{max(1, len(floors))}] = {{", wrap(floors or ["0"]), "};", "",
            "static const uint16_t money[] = {", wrap(money or ["0"]), "};", "",
            f"const struct game_names names_{name} = {{",
            "    .species_count = %d, .item_count = %d, .move_count = %d, .trap_count = %d, .dungeon_count = %d, .action_count = %d,"
            % tuple(len(tables[k]) for k in ("species", "items", "moves", "traps", "dungeons", "actions")),
            f"    .money_count = {len(money)}, .species = species, .items = items, .moves = moves, .traps = traps,",
            "    .dungeons = dungeons, .actions = actions, .item_use = item_use, .dungeon_floors = dungeon_floors, .money = money,",
            "};", ""]
    with open(target, "w", encoding="utf-8") as f:
        f.write("\n".join(out))


main()
