/* Private to the dashboard. */
#ifndef SERVE_DASH_ROOM_H
#define SERVE_DASH_ROOM_H

#include <pthread.h>
#include <stdatomic.h>

#include "serve/dash.h"
#include "serve/http.h"

enum { DASH_CLIENTS = 64, WALL = -1, NOBODY = -2, STEP_STREAM = 1000, STATUS_STREAM = 2000, WORLD_STREAM = 3000 };

struct dash_client {
    uint64_t id;      /* 0: free */
    int game;         /* looked at; WALL: all as tiles; NOBODY: a hidden page */
};

struct dash_kept { /* a whole step */
    uint32_t index;
    struct buf json, picture; /* as sent */
};

struct dash_game {
    atomic_int looks;
    struct dash_row *rows;
    uint32_t count, cap;
    struct dash_kept *kept;     /* ring of dash.kept, by index % kept; NULL until the first step */
    uint8_t *last;              /* newest picture sent, RGB; NULL before */
    struct buf packed;          /* the same as a message */
    bool last_valid;
    double due;                 /* time of the next picture */
    uint64_t sent, bytes;       /* pictures */
};

struct dash {
    struct http_server *http;
    struct http_ws *live;
    struct dash_options options;
    char *title, *about, url[128];
    uint32_t kept;
    pthread_mutex_t lock;       /* clients, games; taken before the HTTP core's locks, never in between */
    struct dash_client clients[DASH_CLIENTS];
    uint64_t driver;            /* client that has the keys of driven, 0 none */
    int driven;
    double status_sent, cpu_at, cpu_seconds;
    struct dash_game games[DASH_GAMES];
};

/* dash_assets.c: the files of web/, gzip'ed at build time. */
struct dash_asset {
    const char *path, *content_type;
    const unsigned char *data, *end;
};
extern const struct dash_asset dash_assets[];
extern const int dash_asset_count;
/* dash_page.c */
int dash_add_pages(struct http_server *s, struct err *err);
void dash_safe_headers(struct http_exchange *x);

/* dash_picture.c: a picture as a message: kind (0 as before, 1 palette, 2 RGB), game, colours (2 bytes), frame (4 bytes), then
 * zlib: palette and one byte a pixel, or RGB. Little endian. */
void dash_pack_picture(const uint8_t *rgb, int game, uint64_t frame, struct buf *out);
/* dash_step.c */
void dash_put_world(struct buf *b, int game, const struct world *w, const struct world_seen *seen);
void dash_put_step(struct buf *b, int game, uint32_t index, const char *json, const struct world *w, const struct world_seen *seen);
/* dash_history.c; lock held for the first two */
int dash_keep_row(struct dash *d, int game, const struct dash_row *row);
void dash_keep_step(struct dash *d, int game, uint32_t index, const struct buf *json, const uint8_t *rgb, uint64_t frame);
int dash_add_history(struct dash *d, struct err *err);
void dash_free_history(struct dash *d);
/* dash_client.c */
void dash_client_opened(void *user, uint64_t client, const struct http_request *request);
void dash_client_message(void *user, uint64_t client, const char *data, size_t bytes, bool binary);
void dash_client_closed(void *user, uint64_t client);
/* A message to all clients that look at this game. */
void dash_send_lookers(struct dash *d, int game, bool binary, int stream, const void *data, size_t bytes, bool wall_too);
void dash_put_status(struct dash *d, struct buf *b);

#endif
