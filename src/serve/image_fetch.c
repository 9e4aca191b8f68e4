/* Pictures by URL, for those who switch it on. A server that fetches what strangers name must not become their hand in the networks
 * it can reach: every address is checked where the socket is made, after each redirect and each name lookup, and no proxy is used.
 * Only public unicast addresses pass. */
#include "serve/api_room.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool v4_is_public(uint32_t a) {
    static const struct { uint32_t net; int bits; } kept[] = {
        {0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16}, {0xac100000, 12}, {0xc0000000, 24},
        {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16}, {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 3}};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) /* RFC 6890 */
        if (a >> (32 - kept[i].bits) == kept[i].net >> (32 - kept[i].bits)) return false;
    return true;
}

bool address_is_public(const struct sockaddr *address) {
    if (address->sa_family == AF_INET) return v4_is_public(ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr));
    if (address->sa_family != AF_INET6) return false;
    const uint8_t *b = ((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr;
    uint32_t last = (uint32_t)b[12] << 24 | (uint32_t)b[13] << 16 | (uint32_t)b[14] << 8 | b[15];
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}, translated[12] = {0, 0x64, 0xff, 0x9b};
    if (!memcmp(b, mapped, 12) || !memcmp(b, translated, 12)) return v4_is_public(last);
    if ((b[0] & 0xe0) != 0x20) return false; /* only 2000::/3 is global unicast */
    if (b[0] == 0x20 && b[1] == 0x02)        /* 6to4 carries an IPv4 address */
        return v4_is_public((uint32_t)b[2] << 24 | (uint32_t)b[3] << 16 | (uint32_t)b[4] << 8 | b[5]);
    if (b[0] == 0x20 && b[1] == 0x01 && (b[2] < 2 || (b[2] == 0x0d && b[3] == 0xb8))) return false; /* Teredo, ORCHID, documentation */
    return true;
}

#ifdef ENGINE_ONLY
int image_fetch(const char *url, size_t limit, const int *cancel, struct buf *out, struct err *err) {
    (void)url, (void)limit, (void)cancel, (void)out;
    return err_set(err, ERR_MISSING, "this build has no libcurl and fetches no pictures");
}
#else
#include <curl/curl.h>

enum { FETCH_SECONDS = 20, REDIRECTS = 3 };

struct fetch {
    struct buf *out;
    size_t limit;
    const int *cancel;
    bool refused, too_long;
};

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *a) {
    struct fetch *f = user;
    (void)purpose;
    if (!address_is_public(&a->addr)) {
        f->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static size_t receive(char *data, size_t size, size_t n, void *user) {
    struct fetch *f = user;
    f->too_long = n * size > f->limit - f->out->len;
    if (f->too_long) return 0;
    buf_append(f->out, data, n * size);
    return f->out->failed ? 0 : n * size;
}

static int progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    const struct fetch *f = user;
    (void)a, (void)b, (void)c, (void)d;
    return f->cancel && __atomic_load_n(f->cancel, __ATOMIC_RELAXED);
}

int image_fetch(const char *url, size_t limit, const int *cancel, struct buf *out, struct err *err) {
    struct fetch f = {.out = out, .limit = limit, .cancel = cancel};
    CURL *c = curl_easy_init();
    if (!c) return err_set(err, ERR_MEMORY, "out of memory for a picture");
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)REDIRECTS);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)FETCH_SECONDS);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "pmd-agent");
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, &f);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &f);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, &f);
    CURLcode r = curl_easy_perform(c);
    curl_easy_cleanup(c);
    if (r == CURLE_OK) return 0;
    /* Nothing of what the other side said is passed on: it would tell about networks the client cannot see. */
    if (f.refused) return err_set(err, ERR_ARGUMENT, "the URL leads to an address that is not public");
    if (f.too_long) return err_set(err, ERR_LIMIT, "the picture at the URL has more than %zu bytes", limit);
    return err_set(err, ERR_NETWORK, "the URL could not be fetched: %s", curl_easy_strerror(r));
}
#endif
