/* The page's files inside the program: gzip'ed by the Makefile into WEB_DIR, taken in by the assembler. */
#include "serve/dash_room.h"

#define ASSET(symbol, file)                                                       \
    __asm__(".pushsection .rodata\n"                                              \
            ".balign 8\n"                                                         \
            "dash_asset_" #symbol ": .incbin \"" WEB_DIR "/" file ".gz\"\n"       \
            "dash_asset_" #symbol "_end: .byte 0\n"                               \
            ".popsection\n");                                                     \
    extern const unsigned char dash_asset_##symbol[], dash_asset_##symbol##_end[];

ASSET(index, "index.html")
ASSET(style, "style.css")
ASSET(app, "app.js")
ASSET(link, "link.js")
ASSET(screen, "screen.js")
ASSET(map, "map.js")
ASSET(panels, "panels.js")
ASSET(charts, "charts.js")
ASSET(controls, "controls.js")
ASSET(timeline, "timeline.js")
ASSET(wall, "wall.js")
ASSET(theme, "theme.js")
ASSET(icon, "icon.svg")

#define ENTRY(symbol, path, type) {path, type, dash_asset_##symbol, dash_asset_##symbol##_end}
#define SCRIPT "text/javascript; charset=utf-8"
const struct dash_asset dash_assets[] = {
    ENTRY(index, "/", "text/html; charset=utf-8"), ENTRY(style, "/style.css", "text/css; charset=utf-8"),
    ENTRY(app, "/app.js", SCRIPT), ENTRY(link, "/link.js", SCRIPT), ENTRY(screen, "/screen.js", SCRIPT), ENTRY(map, "/map.js", SCRIPT),
    ENTRY(panels, "/panels.js", SCRIPT), ENTRY(charts, "/charts.js", SCRIPT), ENTRY(controls, "/controls.js", SCRIPT),
    ENTRY(timeline, "/timeline.js", SCRIPT), ENTRY(wall, "/wall.js", SCRIPT), ENTRY(theme, "/theme.js", SCRIPT), ENTRY(icon, "/icon.svg", "image/svg+xml"),
};
const int dash_asset_count = sizeof dash_assets / sizeof *dash_assets;
