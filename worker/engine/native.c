/* What torch has nothing quick for on a CPU. native.py calls it; where it was not built, attention.py and masks.py do the
 * same, slower.
 *
 * `attend`: attention of one new token each, read straight from the blocks that keys and values lie in. A row is a query
 * of all heads, the blocks of its sequence in order, and the number of tokens it sees. Every key and value is read once
 * for all query heads that share it, the next block is fetched meanwhile. Nothing here depends on neighbours: a row gives
 * the same bits alone and in any company.
 *
 * `lower`: what may not come becomes minus infinity.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#define FOR_EACH_MACHINE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_MACHINE
#endif
#define PART static inline __attribute__((always_inline))

typedef struct {
    const float *query;          /* [rows, heads * each, width], by the two strides below */
    float *out;                  /* [rows, heads * each, value_width] */
    const void *keys, *values;   /* [heads, blocks, size, width] each, float or bfloat16 */
    const float *sinks;          /* [heads * each], or NULL */
    const int64_t *table, *ends; /* [rows, columns] blocks; [rows] tokens that are seen */
    int64_t columns, query_row, query_head;
    int64_t heads, each, blocks, size, width, value_width;
    int64_t window;              /* 0: all */
    int64_t is_half;             /* keys and values are bfloat16 */
    float scaling, softcap;      /* softcap 0: none */
} Call;

PART float number(const void *from, int64_t at, int64_t is_half) {
    if (!is_half) return ((const float *)from)[at];
    union { uint32_t bits; float value; } wide = { (uint32_t)((const uint16_t *)from)[at] << 16 };
    return wide.value;
}

/* Cephes' expf without branches, for x <= 0; not a number stays so. */
PART float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float whole = floorf(x * 1.44269504f + 0.5f);
    const float rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    union { int32_t bits; float value; } power = { ((int32_t)whole + 127) * (1 << 23) };
    return (sum * rest * rest + rest + 1.0f) * power.value;
}

/* Into the second cache: the first has too few places for lines that are on their way. */
PART void fetch(const void *pool, int64_t bytes, const Call *call, int64_t head, int64_t block) {
    const char *from = (const char *)pool + (head * call->blocks + block) * bytes;
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
}

PART void shares(const Call *call, int64_t head, float *scores, int64_t count) {
    if (call->softcap > 0)
        for (int64_t at = 0; at < count; at++) scores[at] = call->softcap * tanhf(scores[at] / call->softcap);
    float top = call->sinks ? call->sinks[head] : scores[0], total = 0;
    for (int64_t at = 0; at < count; at++) top = scores[at] > top ? scores[at] : top;
    for (int64_t at = 0; at < count; at++) {
        scores[at] = exponential(scores[at] - top);
        total += scores[at];
    }
    if (call->sinks) total += exponential(call->sinks[head] - top);
    for (int64_t at = 0; at < count; at++) scores[at] /= total;
}

/* One head of keys for one row. */
PART void read(const Call *call, int64_t row, int64_t head, float *scores, int64_t width, int64_t is_half) {
    const int64_t end = call->ends[row], size = call->size, each = call->each, value_width = call->value_width;
    const int64_t first = call->window && end > call->window ? end - call->window : 0, count = end - first;
    const int64_t bytes = size * (is_half ? 2 : 4), *table = call->table + row * call->columns;
    const float *query = call->query + row * call->query_row + head * each * call->query_head;
    float *out = call->out + (row * call->heads + head) * each * value_width;

    for (int64_t at = first, upto; at < end; at = upto) {
        upto = (at / size + 1) * size < end ? (at / size + 1) * size : end;
        if (upto < end) fetch(call->keys, bytes * width, call, head, table[upto / size]);
        else fetch(call->values, bytes * value_width, call, head, table[first / size]);
        const int64_t block = (head * call->blocks + table[at / size]) * size;
        for (int64_t token = at; token < upto; token++)
            for (int64_t asked = 0; asked < each; asked++) {
                float sum = 0;
                for (int64_t d = 0; d < width; d++)
                    sum += query[asked * call->query_head + d] * number(call->keys, (block + token % size) * width + d, is_half);
                scores[asked * count + token - first] = sum * call->scaling;
            }
    }
    for (int64_t asked = 0; asked < each; asked++) shares(call, head * each + asked, scores + asked * count, count);
    memset(out, 0, each * value_width * sizeof(float));
    for (int64_t at = first, upto; at < end; at = upto) {
        upto = (at / size + 1) * size < end ? (at / size + 1) * size : end;
        if (upto < end) fetch(call->values, bytes * value_width, call, head, table[upto / size]);
        const int64_t block = (head * call->blocks + table[at / size]) * size;
        for (int64_t asked = 0; asked < each; asked++)
            for (int64_t token = at; token < upto; token++) {
                const float share = scores[asked * count + token - first];
                for (int64_t d = 0; d < value_width; d++)
                    out[asked * value_width + d] += share * number(call->values, (block + token % size) * value_width + d, is_half);
            }
    }
}

/* Heads of rows `from` to `to`, counted row by row; `scores` has room for each * the most tokens that a row sees. */
FOR_EACH_MACHINE void attend(const Call *call, float *scores, int64_t from, int64_t to) {
    for (int64_t at = from; at < to; at++) {
        const int64_t row = at / call->heads, head = at % call->heads, width = call->width;
        if (width == 64 && !call->is_half) read(call, row, head, scores, 64, 0);
        else if (width == 128 && !call->is_half) read(call, row, head, scores, 128, 0);
        else if (!call->is_half) read(call, row, head, scores, width, 0);
        else read(call, row, head, scores, width, 1);
    }
}

PART void lower_word(float *logits, uint32_t word, int64_t width) {
    for (int64_t at = 0; at < width; at++) /* what is no number stays so, wherever it stands */
        logits[at] = (word >> at & 1) || logits[at] != logits[at] ? logits[at] : -INFINITY;
}

/* Rows `at` of `logits`, `width` numbers each and `stride` apart; `bits` are [count, ceil(width / 32)]. */
FOR_EACH_MACHINE void lower(float *logits, int64_t stride, int64_t width, const int64_t *at, int64_t count, const uint32_t *bits) {
    const int64_t whole = width / 32, rest = width % 32;
    for (int64_t row = 0; row < count; row++, bits += whole + (rest > 0)) {
        float *one = logits + at[row] * stride;
        for (int64_t word = 0; word < whole; word++) lower_word(one + word * 32, bits[word], 32);
        if (rest) lower_word(one + whole * 32, bits[whole], rest);
    }
}
