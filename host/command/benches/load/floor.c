// The least that a dynamic module of Envoy can be: what its requests cost is what those of no module can cost less than.
// Without LENGTH, its hooks return at once. With it, it also sets `authorization` to a constant of so many bytes.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef void *envoy;
typedef const void *module;
typedef struct {
    const char *data;
    size_t length;
} buffer;

bool envoy_dynamic_module_callback_http_set_header(envoy, uint32_t, buffer, buffer);

#ifdef LENGTH
static char value[LENGTH];
#endif

#define NOTHING(name, ...) void envoy_dynamic_module_on_http_filter_##name(__VA_ARGS__) {}
#define CONTINUE(name, ...) \
    uint32_t envoy_dynamic_module_on_http_filter_##name(__VA_ARGS__) { return 0; }
// Any address will do: Envoy only asks whether there is one.
#define SOMETHING(name, ...) \
    module envoy_dynamic_module_on_http_filter_##name(__VA_ARGS__) { return "something"; }

const char *envoy_dynamic_module_on_program_init(void) {
#ifdef LENGTH
    memset(value, 'x', sizeof value);
    memcpy(value, "Bearer ", 7);
#endif
    return "v0.2.0";
}

uint32_t envoy_dynamic_module_on_http_filter_request_headers(envoy stream, module filter, bool end) {
    (void)stream, (void)filter, (void)end;
#ifdef LENGTH
    const buffer name = {"authorization", 13}, token = {value, sizeof value};
    envoy_dynamic_module_callback_http_set_header(stream, 0, name, token);
#endif
    return 0;
}

SOMETHING(config_new, envoy e, buffer name, buffer text)
SOMETHING(per_route_config_new, buffer name, buffer text)
SOMETHING(new, module config, envoy e)
CONTINUE(request_body, envoy e, module m, bool end)
CONTINUE(request_trailers, envoy e, module m)
CONTINUE(response_headers, envoy e, module m, bool end)
CONTINUE(response_body, envoy e, module m, bool end)
CONTINUE(response_trailers, envoy e, module m)
CONTINUE(local_reply, envoy e, module m, uint32_t status, buffer details, bool reset)
NOTHING(config_destroy, module m)
NOTHING(config_scheduled, envoy e, module m, uint64_t event)
NOTHING(config_http_callout_done, envoy e, module m, uint64_t id, uint32_t result, void *headers, size_t count, buffer *chunks,
        size_t chunk_count)
NOTHING(per_route_config_destroy, module m)
NOTHING(scheduled, envoy e, module m, uint64_t event)
NOTHING(destroy, module m)
NOTHING(stream_complete, envoy e, module m)
NOTHING(http_callout_done, envoy e, module m, uint64_t id, uint32_t result, void *headers, size_t count, buffer *chunks,
        size_t chunk_count)
NOTHING(http_stream_headers, envoy e, module m, uint64_t id, void *headers, size_t count, bool end)
NOTHING(http_stream_data, envoy e, module m, uint64_t id, const buffer *chunks, size_t count, bool end)
NOTHING(http_stream_trailers, envoy e, module m, uint64_t id, void *trailers, size_t count)
NOTHING(http_stream_complete, envoy e, module m, uint64_t id)
NOTHING(http_stream_reset, envoy e, module m, uint64_t id, uint32_t reason)
NOTHING(downstream_above_write_buffer_high_watermark, envoy e, module m)
NOTHING(downstream_below_write_buffer_low_watermark, envoy e, module m)
