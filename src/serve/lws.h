/* libwebsockets 4.1 behind dlopen: the few functions that are called by name. Private to this room.
 *
 * Linking it would keep the whole program from starting where the library is missing; this way only `serve` and the dashboard
 * need it, and they say so. */
#ifndef SERVE_LWS_H
#define SERVE_LWS_H

#define ERR_STATE openssl_err_state /* OpenSSL's headers, which libwebsockets' include, have a type of this name */
#include <libwebsockets.h>
#undef ERR_STATE

#include "base/err.h"

/* The layout of the structs is the library's ABI: .so.17 is 4.1. */
_Static_assert(LWS_LIBRARY_VERSION_MAJOR == 4 && LWS_LIBRARY_VERSION_MINOR == 1, "libwebsockets headers of another version");

#define LWS_FUNCTIONS(X)                                                                                                          \
    X(lws_set_log_level)                                                                                                          \
    X(lws_create_context)                                                                                                         \
    X(lws_create_vhost)                                                                                                           \
    X(lws_get_vhost_listen_port)                                                                                                  \
    X(lws_context_destroy)                                                                                                        \
    X(lws_context_user)                                                                                                           \
    X(lws_get_context)                                                                                                            \
    X(lws_service)                                                                                                                \
    X(lws_cancel_service)                                                                                                         \
    X(lws_callback_on_writable)                                                                                                   \
    X(lws_write)                                                                                                                  \
    X(lws_send_pipe_choked)                                                                                                       \
    X(lws_partial_buffered)                                                                                                       \
    X(lws_hdr_total_length)                                                                                                       \
    X(lws_hdr_copy)                                                                                                               \
    X(lws_hdr_copy_fragment)                                                                                                      \
    X(lws_hdr_custom_length)                                                                                                      \
    X(lws_hdr_custom_copy)                                                                                                        \
    X(lws_get_peer_simple)                                                                                                        \
    X(lws_set_timeout)                                                                                                            \
    X(lws_http_transaction_completed)                                                                                             \
    X(lws_get_opaque_user_data)                                                                                                   \
    X(lws_set_opaque_user_data)                                                                                                   \
    X(lws_frame_is_binary)                                                                                                        \
    X(lws_is_final_fragment)                                                                                                      \
    X(lws_is_first_fragment)                                                                                                      \
    X(lws_remaining_packet_payload)                                                                                               \
    X(lws_close_reason)

struct lws_library {
#define X(name) __typeof__(&name) name;
    LWS_FUNCTIONS(X)
#undef X
};

/* Loads the library on the first call (thread-safe) and keeps it. NULL with a sentence naming the package when it is not there. */
const struct lws_library *lws_library(struct err *err);

#endif
