// A transformer block's training step on processors with AVX-512 and its bf16 products: forward, and backward to the gradients of its
// tokens and of all its parameters. What `block.c` says of numbers holds: bf16 products of pairs, everything else in float32.
//
// A thread takes a chunk of whole images through all of the block, so that what is between the products stays in its caches. Gradients
// of weights are sums over tokens, taken in the order of the tokens whatever the number of threads: for some chunks at a time, each
// thread makes a part of every gradient. So no bit depends on the number of threads.
//
// Kept from forward to backward, beside the input: q, k, v, what attention gives, the hidden layer before its activation (bf16), the
// tokens between the two halves, means and scales of the norms, and the logarithms of softmax's sums (float32).

#include "block.c"

#ifdef __AVX512BF16__

#define BLOCK 6                  // vectors of a panel of token pairs: sums of weights' gradients are 4 x 96
#define WIDE (BLOCK * LANES)     // channels in such a panel
#define HIGH 4                   // rows of such a sum
#define AT_ONCE 192              // tokens that a chunk has about
#define CACHED (8 << 20)         // bytes of token pairs that are made before gradients are added up
#define ALIGN(n) (((n) + 63) / 64 * 64)

enum { NORMAL, ACTIVATED, ADDED, FLOATS, DERIVED };

typedef struct {
    const float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias, *qkv, *proj, *fc1, *fc2;  // weights (outputs, inputs)
    const float *qkv_bias, *proj_bias, *fc1_bias, *fc2_bias;
    int64_t width, heads, hidden, after;
    double norm1_eps, norm2_eps;
} Layer;

typedef struct {  // NULL: not wanted
    float *norm1_weight, *norm1_bias, *norm2_weight, *norm2_bias, *qkv, *proj, *fc1, *fc2;
    float *qkv_bias, *proj_bias, *fc1_bias, *fc2_bias;
} Gradients;

typedef struct {
    bf16 *qkv, *mixed, *hidden;  // (tokens, 3 D), (tokens, D), (tokens, M)
    float *middle, *stats, *logsum;  // (tokens, D), (tokens, 4) mean and scale of each norm, (tokens, heads)
} Kept;

INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static char *take(char **space, int64_t bytes) {
    char *at = *space;
    *space += ALIGN(bytes);
    return at;
}

static Kept kept_in(const Layer *b, char *space, int64_t tokens) {
    Kept kept;
    kept.qkv = (bf16 *)take(&space, tokens * 3 * b->width * 2);
    kept.mixed = (bf16 *)take(&space, tokens * b->width * 2);
    kept.hidden = (bf16 *)take(&space, tokens * b->hidden * 2);
    kept.middle = (float *)take(&space, tokens * b->width * 4);
    kept.stats = (float *)take(&space, tokens * 4 * 4);
    kept.logsum = (float *)take(&space, tokens * b->heads * 4);
    return kept;
}

// Bytes to keep.
int64_t kept_bytes(const Layer *b, int64_t tokens) {
    return ALIGN(tokens * 3 * b->width * 2) + ALIGN(tokens * b->width * 2) + ALIGN(tokens * b->hidden * 2) +
           ALIGN(tokens * b->width * 4) + ALIGN(tokens * 16) + ALIGN(tokens * b->heads * 4);
}

// Numbers of two rows beside each other, 16 of each.
INLINE __m512i beside(void) {
    return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
}
INLINE __m512i pair(__m512 even, __m512 odd) {
    return _mm512_permutexvar_epi16(beside(), (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

// 2^x to 3e-6: what follows is rounded to bf16's 4e-3. 0 far below, infinite far above.
INLINE __m512 power_of_2(__m512 x) {
    __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), p = _mm512_set1_ps(0.0135341302f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0520115332f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.241442714f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693003842f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.00000259f));
    return _mm512_scalef_ps(p, x);
}
#define LOG2E 1.44269504f

// Panel of outputs `j` .. of weights (O, I), as block.c reads them: (I / 2, 64, 2).
static void pack_forward(const float *w, bf16 *to, int64_t O, int64_t I, int64_t j) {
    int64_t wide = least(PANEL, O - j);
    uint32_t *panel = (uint32_t *)(to + j * I), pairs[LANES];
    for (int64_t o = 0; o < wide; o++) {
        const float *row = w + (j + o) * I;
        for (int64_t i = 0; i < I; i += LANES) {
            _mm256_storeu_si256((__m256i *)pairs, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(row + i)));
            for (int64_t k = 0; k < LANES / 2; k++) panel[(i / 2 + k) * wide + o] = pairs[k];
        }
    }
}

// The same of their transposed, (I, O): panel of inputs `j` .., (O / 2, 64, 2).
static void pack_backward(const float *w, bf16 *to, int64_t O, int64_t I, int64_t j) {
    int64_t wide = least(PANEL, I - j);
    bf16 *panel = to + j * O;
    for (int64_t o = 0; o < O; o += 2)
        for (int64_t i = 0; i < wide; i += LANES)
            _mm512_storeu_si512(panel + o * wide + 2 * i,
                                pair(_mm512_loadu_ps(w + o * I + j + i), _mm512_loadu_ps(w + (o + 1) * I + j + i)));
}

// GELU of x and its derivative, to 1e-4 of themselves: they are rounded to bf16.
INLINE __m512 gelu_and_slope(__m512 x, int after, __m512 *slope) {
    __m512 one = _mm512_set1_ps(1.0f);
    if (after == GELU_ERF) {  // as `gelu_erf`
        __m512 square = _mm512_mul_ps(x, x);
        __m512 t = _mm512_rcp14_ps(_mm512_fmadd_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.3275911f * 0.70710678f), one));
        __m512 p = _mm512_set1_ps(1.061405429f * 0.5f);
        p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f * 0.5f));
        p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f * 0.5f));
        p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f * 0.5f));
        p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f * 0.5f));
        __m512 bell = power_of_2(_mm512_mul_ps(square, _mm512_set1_ps(-0.5f * LOG2E)));
        __m512 half = _mm512_mul_ps(_mm512_mul_ps(p, t), bell);
        half = _mm512_mask_sub_ps(half, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), one, half);
        *slope = _mm512_fmadd_ps(_mm512_mul_ps(x, bell), _mm512_set1_ps(0.39894228f), half);
        return _mm512_mul_ps(x, half);
    }
    __m512 cubic = after == GELU_TANH ? _mm512_set1_ps(0.0713548162726f) : _mm512_setzero_ps();
    __m512 linear = after == GELU_TANH ? _mm512_set1_ps(1.5957691216057f) : _mm512_set1_ps(1.702f);
    __m512 square = _mm512_mul_ps(_mm512_mul_ps(x, x), cubic);
    __m512 grown = power_of_2(_mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2E)), _mm512_add_ps(square, linear)));
    __m512 s = _mm512_rcp14_ps(_mm512_add_ps(grown, one)), y = _mm512_mul_ps(x, s);
    *slope = _mm512_fmadd_ps(_mm512_fnmadd_ps(y, s, y), _mm512_fmadd_ps(square, _mm512_set1_ps(3.0f), linear), s);
    return y;
}

typedef struct {
    bf16 *out, *active;     // NORMAL: out; ACTIVATED: before and after; DERIVED: gradient before the activation, and after it
    const bf16 *hidden;     // DERIVED: before the activation
    const float *from;      // ADDED: what the product, times the row's factor, is added to
    const float *factors;   // one for each row; NULL: 1
    float *into;            // ADDED, FLOATS
    int after;
} Target;

// Rows of a (rows, K) times packed weights of O outputs, plus bias, into targets (rows, O).
INLINE void products(const bf16 *a, int64_t rows, const bf16 *weight, const float *bias, int64_t K, int64_t O, const int mode,
                     const Target to) {
    for (int64_t j = 0; j < O; j += PANEL) {
        const bf16 *panel = weight + j * K;
        int64_t n = least(PANEL, O - j) / LANES;
        for (int64_t start = 0; start < rows; start += ROWS) {
            const bf16 *from[ROWS];
            int64_t count = least(ROWS, rows - start);
            for (int64_t i = 0; i < ROWS; i++) from[i] = a + (start + least(i, count - 1)) * K;
            __m512 s[ROWS][VECTORS];
            EACH(n, {
                multiply_bf16(from, panel, K, n_, s);
                for (int i = 0; i < ROWS; i++) {
                    if (i >= count) break;
                    int64_t at = (start + i) * O + j;
                    for (int v = 0; v < n_; v++, at += LANES) {
                        __m512 y = s[i][v];
                        if (bias) y = _mm512_add_ps(y, _mm512_loadu_ps(bias + j + v * LANES));
                        if (mode == NORMAL) store_bf16(to.out + at, y);
                        if (mode == FLOATS) _mm512_storeu_ps(to.into + at, y);
                        if (mode == ADDED) {
                            __m512 factor = _mm512_set1_ps(to.factors ? to.factors[start + i] : 1.0f);
                            _mm512_storeu_ps(to.into + at, _mm512_fmadd_ps(y, factor, _mm512_loadu_ps(to.from + at)));
                        }
                        if (mode == ACTIVATED) {
                            __m512 slope;
                            store_bf16(to.out + at, y);
                            store_bf16(to.active + at, gelu_and_slope(load_bf16(to.out + at), to.after, &slope));
                        }
                        if (mode == DERIVED) {
                            __m512 slope;
                            __m512 active = gelu_and_slope(load_bf16(to.hidden + at), to.after, &slope);
                            store_bf16(to.out + at, _mm512_mul_ps(y, slope));
                            store_bf16(to.active + at, active);
                        }
                    }
                }
            })
        }
    }
}

static void normal(const bf16 *a, int64_t rows, const bf16 *w, const float *bias, int64_t K, int64_t O, bf16 *out) {
    products(a, rows, w, bias, K, O, NORMAL, (Target){.out = out});
}
static void floats(const bf16 *a, int64_t rows, const bf16 *w, int64_t K, int64_t O, float *into) {
    products(a, rows, w, NULL, K, O, FLOATS, (Target){.into = into});
}
static void added(const bf16 *a, int64_t rows, const bf16 *w, const float *bias, int64_t K, int64_t O, const float *from,
                  const float *factors, float *into) {
    products(a, rows, w, bias, K, O, ADDED, (Target){.into = into, .from = from, .factors = factors});
}
#define AFTER(after, call)                          \
    if ((after) == GELU_ERF) call(GELU_ERF);        \
    else if ((after) == GELU_TANH) call(GELU_TANH); \
    else call(GELU_QUICK);
static void activated(const bf16 *a, int64_t rows, const bf16 *w, const float *bias, int64_t K, int64_t O, int64_t after, bf16 *out,
                      bf16 *active) {
#define CALL(kind) products(a, rows, w, bias, K, O, ACTIVATED, (Target){.out = out, .active = active, .after = kind})
    AFTER(after, CALL)
#undef CALL
}
static void derived(const bf16 *a, int64_t rows, const bf16 *w, int64_t K, int64_t O, int64_t after, const bf16 *hidden, bf16 *out,
                    bf16 *active) {
#define CALL(kind) products(a, rows, w, NULL, K, O, DERIVED, (Target){.out = out, .active = active, .hidden = hidden, .after = kind})
    AFTER(after, CALL)
#undef CALL
}

// Norm of each row; its mean and scale go to `stats`, 4 apart.
static void norm_rows(const float *x, bf16 *out, int64_t rows, int64_t width, const float *weight, const float *bias, double eps,
                      float *stats) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * width;
        __m512 sum = _mm512_setzero_ps(), square = sum;
        for (int64_t c = 0; c < width; c += LANES) sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + c));
        float average = _mm512_reduce_add_ps(sum) / width;
        __m512 mean = _mm512_set1_ps(average);
        for (int64_t c = 0; c < width; c += LANES) {
            __m512 off = _mm512_sub_ps(_mm512_loadu_ps(from + c), mean);
            square = _mm512_fmadd_ps(off, off, square);
        }
        float inverse_deviation = (float)(1.0 / sqrt((double)_mm512_reduce_add_ps(square) / width + eps));
        __m512 scale = _mm512_set1_ps(inverse_deviation);
        for (int64_t c = 0; c < width; c += LANES) {
            __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(from + c), mean), scale);
            store_bf16(out + row * width + c, _mm512_fmadd_ps(y, _mm512_loadu_ps(weight + c), _mm512_loadu_ps(bias + c)));
        }
        stats[4 * row] = average, stats[4 * row + 1] = inverse_deviation;
    }
}

// Gradient of rows x from that of their norm, added to `base` (NULL: to nothing); the norm itself once more, and the sums over rows
// for its parameters, added to `sums` (2, width).
static void norm_back(const float *x, const float *gradient, const float *base, float *out, bf16 *normed, int64_t rows, int64_t width,
                      const float *weight, const float *bias, const float *stats, float *sums) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * width, *g = gradient + row * width;
        __m512 mean = _mm512_set1_ps(stats[4 * row]), scale = _mm512_set1_ps(stats[4 * row + 1]);
        __m512 first = _mm512_setzero_ps(), second = first;
        for (int64_t c = 0; c < width; c += LANES) {
            __m512 w = _mm512_loadu_ps(weight + c), d = _mm512_loadu_ps(g + c);
            __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(from + c), mean), scale), e = _mm512_mul_ps(d, w);
            first = _mm512_add_ps(first, e);
            second = _mm512_fmadd_ps(e, y, second);
            store_bf16(normed + row * width + c, _mm512_fmadd_ps(y, w, _mm512_loadu_ps(bias + c)));
            _mm512_storeu_ps(sums + c, _mm512_fmadd_ps(d, y, _mm512_loadu_ps(sums + c)));
            _mm512_storeu_ps(sums + width + c, _mm512_add_ps(d, _mm512_loadu_ps(sums + width + c)));
        }
        first = _mm512_set1_ps(_mm512_reduce_add_ps(first) / width), second = _mm512_set1_ps(_mm512_reduce_add_ps(second) / width);
        for (int64_t c = 0; c < width; c += LANES) {
            __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(from + c), mean), scale);
            __m512 e = _mm512_fmsub_ps(_mm512_loadu_ps(g + c), _mm512_loadu_ps(weight + c), first);
            e = _mm512_mul_ps(_mm512_fnmadd_ps(y, second, e), scale);
            _mm512_storeu_ps(out + row * width + c, base ? _mm512_add_ps(e, _mm512_loadu_ps(base + row * width + c)) : e);
        }
    }
}

// One head: softmax(q k^T scale) v, and the logarithm of each row's sum of exponentials, `heads` apart.
static void attend_forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *logsum, int64_t tokens, int64_t width,
                           int64_t stride, int64_t stride_out, int64_t heads, float scale, char *space) {
    int64_t padded = up(tokens, LANES);
    bf16 *keys = (bf16 *)take(&space, padded * width * 2), *values = (bf16 *)take(&space, padded * width * 2);
    bf16 *weights = (bf16 *)take(&space, ROWS * padded * 2);
    float *logits = (float *)take(&space, ROWS * padded * 4);
    __mmask16 last = (__mmask16)(0xFFFF >> (padded - tokens));
    __m512 times = _mm512_set1_ps(scale * LOG2E);
    turn_bf16(keys, k, tokens, padded, width, stride);
    keep_bf16(values, v, tokens, padded, width, stride);
    for (int64_t start = 0; start < tokens; start += ROWS) {
        int64_t count = least(ROWS, tokens - start);
        const bf16 *from[ROWS], *mixed[ROWS];
        float share[ROWS];
        __m512 s[ROWS][VECTORS];
        for (int64_t i = 0; i < ROWS; i++) {
            from[i] = q + (start + least(i, count - 1)) * stride;
            mixed[i] = weights + least(i, count - 1) * padded;
        }
        for (int64_t j = 0; j < padded; j += PANEL) {
            int64_t n = least(PANEL, padded - j) / LANES;
            EACH(n, {
                multiply_bf16(from, keys + j * width, width, n_, s);
                for (int i = 0; i < ROWS; i++)
                    for (int v_ = 0; v_ < n_; v_++) _mm512_storeu_ps(logits + i * padded + j + v_ * LANES, s[i][v_]);
            })
        }
        for (int64_t i = 0; i < count; i++) {
            float *row = logits + i * padded;
            __m512 high = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
            for (int64_t j = 0; j < padded - LANES; j += LANES) high = _mm512_max_ps(high, _mm512_loadu_ps(row + j));
            high = _mm512_mask_max_ps(high, last, high, _mm512_loadu_ps(row + padded - LANES));
            float highest = _mm512_reduce_max_ps(high) * scale;
            __m512 top = _mm512_set1_ps(highest * LOG2E);
            for (int64_t j = 0; j < padded; j += LANES) {
                __m512 e = power_of_2(_mm512_fmsub_ps(_mm512_loadu_ps(row + j), times, top));
                if (j == padded - LANES) e = _mm512_maskz_mov_ps(last, e);
                sum = _mm512_add_ps(sum, e);
                store_bf16(weights + i * padded + j, e);
            }
            float total = _mm512_reduce_add_ps(sum);
            share[i] = 1.0f / total;
            logsum[(start + i) * heads] = highest + logf(total);
        }
        for (int64_t c = 0; c < width; c += PANEL) {
            int64_t n = least(PANEL, width - c) / LANES;
            EACH(n, {
                multiply_bf16(mixed, values + c * padded, padded, n_, s);
                for (int i = 0; i < ROWS; i++) {
                    if (i >= count) break;
                    for (int v_ = 0; v_ < n_; v_++)
                        store_bf16(out + (start + i) * stride_out + c + v_ * LANES, _mm512_mul_ps(s[i][v_], _mm512_set1_ps(share[i])));
                }
            })
        }
    }
}

// Six columns of `a` (pairs, stride) times `b` (pairs, n vectors, 2).
INLINE void multiply_columns(const uint32_t *a, int64_t stride, const bf16 *b, int64_t pairs, int n, __m512 s[ROWS][VECTORS]) {
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < n; v++) s[i][v] = _mm512_setzero_ps();
    for (int64_t t = 0; t < pairs; t++) {
        __m512i w[VECTORS];
        for (int v = 0; v < n; v++) w[v] = _mm512_loadu_si512(b + (t * n + v) * LANES * 2);
        for (int i = 0; i < ROWS; i++) {
            __m512i x = _mm512_set1_epi32((int)a[t * stride + i]);
            for (int v = 0; v < n; v++) s[i][v] = _mm512_dpbf16_ps(s[i][v], (__m512bh)x, (__m512bh)w[v]);
        }
    }
}

// out (tokens, width) = a^T b: a (2 pairs, tokens) in pairs of rows, b (2 pairs, width) in panels.
static void columns(const uint32_t *a, int64_t stride_a, const bf16 *b, int64_t pairs, bf16 *out, int64_t tokens, int64_t width,
                    int64_t stride) {
    for (int64_t c = 0; c < width; c += PANEL) {
        int64_t n = least(PANEL, width - c) / LANES;
        for (int64_t start = 0; start < tokens; start += ROWS) {
            int64_t count = least(ROWS, tokens - start);
            __m512 s[ROWS][VECTORS];
            EACH(n, {
                multiply_columns(a + start, stride_a, b + c * 2 * pairs, pairs, n_, s);
                for (int i = 0; i < ROWS; i++) {
                    if (i >= count) break;
                    for (int v = 0; v < n_; v++) store_bf16(out + (start + i) * stride + c + v * LANES, s[i][v]);
                }
            })
        }
    }
}

// One head's gradients of q, k and v (`stride` apart, as they are) from that of its output, of which the first `rows` are not 0.
static void attend_back(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *gradient, const float *logsum, bf16 *dq, bf16 *dk,
                        bf16 *dv, int64_t rows, int64_t tokens, int64_t width, int64_t stride, int64_t stride_out, int64_t heads,
                        float scale, char *space) {
    int64_t padded = up(tokens, LANES), high = up(rows, ROWS), across = padded + LANES;
    bf16 *keys = (bf16 *)take(&space, padded * width * 2), *values = (bf16 *)take(&space, padded * width * 2);
    bf16 *key_rows = (bf16 *)take(&space, padded * width * 2);
    bf16 *query_rows = (bf16 *)take(&space, high * width * 2), *gradient_rows = (bf16 *)take(&space, high * width * 2);
    uint32_t *shares = (uint32_t *)take(&space, high / 2 * across * 4), *slopes = (uint32_t *)take(&space, high / 2 * across * 4);
    float *p = (float *)take(&space, ROWS * padded * 4), *dp = (float *)take(&space, ROWS * padded * 4);
    bf16 *ds = (bf16 *)take(&space, ROWS * padded * 2);
    __mmask16 last = (__mmask16)(0xFFFF >> (padded - tokens));
    __m512 times = _mm512_set1_ps(scale * LOG2E), over = _mm512_set1_ps(scale);
    turn_bf16(keys, k, tokens, padded, width, stride);
    turn_bf16(values, v, tokens, padded, width, stride);
    keep_bf16(key_rows, k, tokens, padded, width, stride);
    keep_bf16(query_rows, q, rows, high, width, stride);
    keep_bf16(gradient_rows, gradient, rows, high, width, stride_out);
    for (int64_t start = 0; start < rows; start += ROWS) {
        int64_t count = least(ROWS, rows - start);
        const bf16 *from[ROWS], *grown[ROWS], *sloped[ROWS];
        __m512 s[ROWS][VECTORS];
        for (int64_t i = 0; i < ROWS; i++) {
            from[i] = q + (start + least(i, count - 1)) * stride;
            grown[i] = gradient + (start + least(i, count - 1)) * stride_out;
            sloped[i] = ds + least(i, count - 1) * padded;
        }
        for (int64_t j = 0; j < padded; j += PANEL) {
            int64_t n = least(PANEL, padded - j) / LANES;
            EACH(n, {
                multiply_bf16(from, keys + j * width, width, n_, s);
                for (int i = 0; i < ROWS; i++)
                    for (int v_ = 0; v_ < n_; v_++) _mm512_storeu_ps(p + i * padded + j + v_ * LANES, s[i][v_]);
                multiply_bf16(grown, values + j * width, width, n_, s);
                for (int i = 0; i < ROWS; i++)
                    for (int v_ = 0; v_ < n_; v_++) _mm512_storeu_ps(dp + i * padded + j + v_ * LANES, s[i][v_]);
            })
        }
        for (int64_t i = 0; i < ROWS; i += 2) {
            float *row[2] = {p + i * padded, p + (i + 1) * padded}, *slope[2] = {dp + i * padded, dp + (i + 1) * padded};
            __m512 means[2];
            for (int64_t r = 0; r < 2; r++) {
                if (i + r >= count) {
                    memset(row[r], 0, padded * 4);
                    memset(slope[r], 0, padded * 4);
                }
                __m512 less = _mm512_set1_ps(logsum[least(start + i + r, rows - 1) * heads] * LOG2E), sum = _mm512_setzero_ps();
                for (int64_t j = 0; i + r < count && j < padded; j += LANES) {
                    __m512 e = power_of_2(_mm512_fmsub_ps(_mm512_loadu_ps(row[r] + j), times, less));
                    if (j == padded - LANES) e = _mm512_maskz_mov_ps(last, e);
                    sum = _mm512_fmadd_ps(e, _mm512_loadu_ps(slope[r] + j), sum);
                    _mm512_storeu_ps(row[r] + j, e);
                }
                means[r] = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
            }
            for (int64_t j = 0; j < padded; j += LANES) {
                __m512 share[2], e[2];
                for (int r = 0; r < 2; r++) {
                    share[r] = _mm512_loadu_ps(row[r] + j);
                    e[r] = _mm512_mul_ps(_mm512_mul_ps(share[r], over), _mm512_sub_ps(_mm512_loadu_ps(slope[r] + j), means[r]));
                    store_bf16(ds + (i + r) * padded + j, e[r]);
                }
                int64_t at = (start + i) / 2 * across + j;
                _mm512_storeu_si512(shares + at, pair(share[0], share[1]));
                _mm512_storeu_si512(slopes + at, pair(e[0], e[1]));
            }
        }
        for (int64_t c = 0; c < width; c += PANEL) {
            int64_t n = least(PANEL, width - c) / LANES;
            EACH(n, {
                multiply_bf16(sloped, key_rows + c * padded, padded, n_, s);
                for (int i = 0; i < ROWS; i++) {
                    if (i >= count) break;
                    for (int v_ = 0; v_ < n_; v_++) store_bf16(dq + (start + i) * stride + c + v_ * LANES, s[i][v_]);
                }
            })
        }
    }
    columns(shares, across, gradient_rows, high / 2, dv, tokens, width, stride);
    columns(slopes, across, query_rows, high / 2, dk, tokens, width, stride);
}

// Rows (rows, width) as pairs of rows in panels of 96 channels, `pairs` apart in all: at `first` of each panel. An odd last row is
// paired with zeros. `sums` (width), where wanted: of the rows.
static void pair_rows(const bf16 *from, int64_t rows, int64_t width, uint32_t *to, int64_t pairs, int64_t first, float *sums) {
    __m512i ones = _mm512_set1_epi32(0x3F803F80), low = beside(), none = _mm512_setzero_si512();
    __m512i lower = _mm512_mask_add_epi16(low, 0xAAAAAAAA, low, _mm512_set1_epi16(16)), upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
    for (int64_t c = 0; c < width; c += 2 * LANES) {
        int64_t panel = c / WIDE * WIDE, wide = least(WIDE, width - panel), both = width - c > LANES;
        uint32_t *at = to + panel * pairs + first * wide + (c - panel);
        __mmask32 there = both ? 0xFFFFFFFF : 0xFFFF;
        __m512 sum = _mm512_setzero_ps(), other = sum;
        for (int64_t row = 0; row < rows; row += 2, at += wide) {
            __m512i even = _mm512_maskz_loadu_epi16(there, from + row * width + c), odd = none;
            if (row + 1 < rows) odd = _mm512_maskz_loadu_epi16(there, from + (row + 1) * width + c);
            __m512i two = _mm512_permutex2var_epi16(even, lower, odd);
            _mm512_storeu_si512(at, two);
            sum = _mm512_dpbf16_ps(sum, (__m512bh)two, (__m512bh)ones);
            if (!both) continue;
            two = _mm512_permutex2var_epi16(even, upper, odd);
            _mm512_storeu_si512(at + LANES, two);
            other = _mm512_dpbf16_ps(other, (__m512bh)two, (__m512bh)ones);
        }
        if (!sums) continue;
        _mm512_storeu_ps(sums + c, sum);
        if (both) _mm512_storeu_ps(sums + c + LANES, other);
    }
}

#define EACH6(n, call)                              \
    switch (n) {                                    \
        case 1: { enum { n_ = 1 }; call; break; }   \
        case 2: { enum { n_ = 2 }; call; break; }   \
        case 3: { enum { n_ = 3 }; call; break; }   \
        case 4: { enum { n_ = 4 }; call; break; }   \
        case 5: { enum { n_ = 5 }; call; break; }   \
        default: { enum { n_ = BLOCK }; call; }     \
    }

// Rows `from` to `end` of a weight's gradient (O, I), channels `j` .. of I: plus the sum over pairs of tokens of a's (of O channels)
// times b's. `afresh`: instead of what is there.
static void add_gradient(const uint32_t *a, const uint32_t *b, int64_t pairs_a, int64_t pairs, int64_t O, int64_t I, int64_t from,
                         int64_t end, int64_t j, float *out, int afresh) {
    int64_t n = least(WIDE, I - j) / LANES;
    const uint32_t *right = b + j * pairs_a;
    for (int64_t i = from; i < end; i += HIGH) {
        int64_t panel = i / WIDE * WIDE, wide = least(WIDE, O - panel);
        const uint32_t *left = a + panel * pairs_a + (i - panel);
        float *at = out + i * I + j;
        EACH6(n, {
            __m512 s[HIGH][BLOCK];
            for (int r = 0; r < HIGH; r++)
                for (int v = 0; v < n_; v++) s[r][v] = afresh ? _mm512_setzero_ps() : _mm512_loadu_ps(at + r * I + v * LANES);
            for (int64_t t = 0; t < pairs; t++) {
                __m512i w[BLOCK];
                for (int v = 0; v < n_; v++) {
                    w[v] = _mm512_loadu_si512(right + (t * n_ + v) * LANES);
                    __asm__("" : "+v"(w[v]));  // else it is loaded again for each row
                }
                for (int r = 0; r < HIGH; r++) {
                    __m512i x = _mm512_set1_epi32((int)left[t * wide + r]);
                    for (int v = 0; v < n_; v++) s[r][v] = _mm512_dpbf16_ps(s[r][v], (__m512bh)x, (__m512bh)w[v]);
                }
            }
            for (int r = 0; r < HIGH; r++)
                for (int v = 0; v < n_; v++) _mm512_storeu_ps(at + r * I + v * LANES, s[r][v]);
        })
    }
}

INLINE int64_t images_at_once(int64_t tokens) { return most(1, (AT_ONCE + tokens / 2) / tokens); }

static int64_t attention_bytes(const Layer *b, int64_t tokens) {
    int64_t padded = up(tokens, LANES), high = up(tokens, ROWS), d = b->width / b->heads;
    return 3 * ALIGN(padded * d * 2) + 2 * ALIGN(high * d * 2) + 2 * ALIGN(high / 2 * (padded + LANES) * 4) + 64 +
           2 * ALIGN(ROWS * padded * 4) + ALIGN(ROWS * padded * 2);
}

static int64_t packed_bytes(const Layer *b) { return ALIGN((4 * b->width + 2 * b->hidden) * b->width * 2) + 256; }

static int64_t thread_bytes_forward(const Layer *b, int64_t tokens) {
    int64_t rows = images_at_once(tokens) * tokens;
    return ALIGN(rows * b->width * 2) + ALIGN(rows * b->hidden * 2) + ALIGN(rows * 4) + attention_bytes(b, tokens);
}

int64_t forward_bytes(const Layer *b, int64_t tokens, int threads) {
    return packed_bytes(b) + threads * thread_bytes_forward(b, tokens) + 64;
}

typedef struct { bf16 *qkv, *proj, *fc1, *fc2; } Packed;

static Packed packed_in(const Layer *b, char **space) {
    int64_t D = b->width, M = b->hidden;
    Packed w;
    w.qkv = (bf16 *)take(space, 3 * D * D * 2), w.proj = (bf16 *)take(space, D * D * 2);
    w.fc1 = (bf16 *)take(space, M * D * 2), w.fc2 = (bf16 *)take(space, M * D * 2);
    return w;
}

// Panel number `task` of all weights, forward or backward.
static void pack_task(const Layer *b, Packed to, int64_t task, int backward) {
    int64_t D = b->width, M = b->hidden;
    const float *from[4] = {b->qkv, b->proj, b->fc1, b->fc2};
    bf16 *into[4] = {to.qkv, to.proj, to.fc1, to.fc2};
    int64_t O[4] = {3 * D, D, M, D}, I[4] = {D, D, D, M};
    for (int w = 0; w < 4; w++) {
        int64_t count = ((backward ? I[w] : O[w]) + PANEL - 1) / PANEL;
        if (task < count) {
            (backward ? pack_backward : pack_forward)(from[w], into[w], O[w], I[w], task * PANEL);
            return;
        }
        task -= count;
    }
}

static int64_t pack_tasks(const Layer *b, int backward) {
    int64_t D = (b->width + PANEL - 1) / PANEL, M = (b->hidden + PANEL - 1) / PANEL, three = (3 * b->width + PANEL - 1) / PANEL;
    return backward ? 3 * D + M : three + 2 * D + M;
}

static const float *row_factors(const float *factors, int64_t image, int64_t images, int64_t tokens, float *space) {
    if (!factors) return NULL;
    for (int64_t i = 0; i < images; i++)
        for (int64_t t = 0; t < tokens; t++) space[i * tokens + t] = factors[image + i];
    return space;
}

// x (images, tokens, width) through the block to y. `factors1`, `factors2` (images), or NULL: what each image's branches are multiplied
// with. `space`: `forward_bytes`, `keep`: `kept_bytes`.
void block_forward(const Layer *b, const float *x, float *y, char *keep, int64_t images, int64_t tokens, const float *factors1,
                   const float *factors2, int threads, char *space) {
    int64_t D = b->width, M = b->hidden, d = D / b->heads, group = images_at_once(tokens), chunks = (images + group - 1) / group;
    space += (64 - (uintptr_t)space % 64) % 64;
    Packed w = packed_in(b, &space);
    Kept kept = kept_in(b, keep, images * tokens);
    int64_t each = thread_bytes_forward(b, tokens), tasks = pack_tasks(b, 0);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int64_t me = 0;
#ifdef _OPENMP
        me = omp_get_thread_num();
#endif
        char *own = space + me * each;
        bf16 *normed = (bf16 *)take(&own, group * tokens * D * 2), *active = (bf16 *)take(&own, group * tokens * M * 2);
        float *row_space = (float *)take(&own, group * tokens * 4);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) pack_task(b, w, task, 0);
#pragma omp for schedule(dynamic)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t image = chunk * group, count = least(group, images - image), rows = count * tokens, first = image * tokens;
            const float *from = x + first * D;
            float *middle = kept.middle + first * D;
            bf16 *qkv = kept.qkv + first * 3 * D, *mixed = kept.mixed + first * D;
            norm_rows(from, normed, rows, D, b->norm1_weight, b->norm1_bias, b->norm1_eps, kept.stats + 4 * first);
            normal(normed, rows, w.qkv, b->qkv_bias, D, 3 * D, qkv);
            for (int64_t i = 0; i < count; i++)
                for (int64_t head = 0; head < b->heads; head++) {
                    const bf16 *q = qkv + i * tokens * 3 * D + head * d;
                    attend_forward(q, q + D, q + 2 * D, mixed + i * tokens * D + head * d,
                                   kept.logsum + (first + i * tokens) * b->heads + head, tokens, d, 3 * D, D, b->heads,
                                   1.0f / sqrtf((float)d), own);
                }
            added(mixed, rows, w.proj, b->proj_bias, D, D, from, row_factors(factors1, image, count, tokens, row_space), middle);
            norm_rows(middle, normed, rows, D, b->norm2_weight, b->norm2_bias, b->norm2_eps, kept.stats + 4 * first + 2);
            activated(normed, rows, w.fc1, b->fc1_bias, D, M, b->after, kept.hidden + first * M, active);
            added(active, rows, w.fc2, b->fc2_bias, M, D, middle, row_factors(factors2, image, count, tokens, row_space), y + first * D);
        }
    }
}

typedef struct { uint32_t *dy, *active, *dhidden, *normed2, *dmiddle, *mixed, *dqkv, *normed1; } Pairs;

static int64_t chunks_together(const Layer *b, int64_t tokens, int threads) {
    int64_t pairs = (images_at_once(tokens) * tokens + 1) / 2, bytes = pairs * (8 * b->width + 2 * b->hidden) * 4;
    return most(1, CACHED / bytes / threads) * threads;
}

static int64_t sums_of(const Layer *b) { return 9 * b->width + b->hidden; }  // of a chunk: norms' 4 D, biases' 5 D + M

static int64_t thread_bytes_backward(const Layer *b, int64_t tokens) {
    int64_t rows = images_at_once(tokens) * tokens, D = b->width;
    return 3 * ALIGN(rows * D * 2) + 3 * ALIGN(rows * b->hidden * 2) + ALIGN(rows * 3 * D * 2) + 5 * ALIGN(rows * D * 4) +
           ALIGN(rows * 16) + ALIGN(rows * 4) + attention_bytes(b, tokens);
}

int64_t backward_bytes(const Layer *b, int64_t images, int64_t tokens, int threads) {
    int64_t group = images_at_once(tokens), chunks = (images + group - 1) / group, pairs = (group * tokens + 1) / 2;
    int64_t together = chunks_together(b, tokens, threads) * pairs;
    return packed_bytes(b) + threads * thread_bytes_backward(b, tokens) + ALIGN(chunks * sums_of(b) * 4) +
           ALIGN(together * (8 * b->width + 2 * b->hidden) * 4) + 1024;
}

// The first `rows` of each image's `tokens` rows of `bytes`: `from` itself where these are all, else copied.
static const void *first_rows(const void *from, int64_t count, int64_t tokens, int64_t rows, int64_t bytes, void *space) {
    if (rows == tokens) return from;
    for (int64_t i = 0; i < count; i++)
        memcpy((char *)space + i * rows * bytes, (const char *)from + i * tokens * bytes, rows * bytes);
    return space;
}

// How many leading tokens of each image have a gradient that is not 0, at most.
static int64_t rows_with_gradient(const float *dy, int64_t images, int64_t tokens, int64_t width) {
    int64_t rows = 1;
    for (int64_t image = 0; image < images && rows < tokens; image++)
        for (int64_t row = tokens - 1; row >= rows; row--) {
            const float *at = dy + (image * tokens + row) * width;
            int any = 0;
            for (int64_t c = 0; c < width && !any; c += LANES)
                any = _mm512_cmp_ps_mask(_mm512_loadu_ps(at + c), _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
            if (any) rows = row + 1;
        }
    return rows;
}

// Gradients of x and of the parameters from dy (images, tokens, width). Arguments as of `block_forward`; `space`: `backward_bytes`.
void block_backward(const Layer *b, const float *x, const float *dy, float *dx, char *keep, Gradients *out, int64_t images, int64_t tokens,
                    const float *factors1, const float *factors2, int threads, char *space) {
    int64_t D = b->width, M = b->hidden, d = D / b->heads, group = images_at_once(tokens), chunks = (images + group - 1) / group;
    int64_t few = rows_with_gradient(dy, images, tokens, D), all = sums_of(b);
    int64_t some = (group * few + 1) / 2, pairs = (group * tokens + 1) / 2;  // of a chunk: of rows with a gradient, of all
    int64_t together = chunks_together(b, tokens, threads), capacity = together * pairs;
    space += (64 - (uintptr_t)space % 64) % 64;
    Packed w = packed_in(b, &space);
    Kept kept = kept_in(b, keep, images * tokens);
    float *sums = (float *)take(&space, chunks * all * 4);
    uint32_t *at = (uint32_t *)take(&space, capacity * (8 * D + 2 * M) * 4);
    Pairs p;
    p.dy = at, p.active = p.dy + capacity * D, p.dhidden = p.active + capacity * M, p.normed2 = p.dhidden + capacity * M;
    p.dmiddle = p.normed2 + capacity * D, p.mixed = p.dmiddle + capacity * D, p.dqkv = p.mixed + capacity * D;
    p.normed1 = p.dqkv + capacity * 3 * D;
    struct { const uint32_t *a, *b; float *out; int64_t O, I, pairs; } sets[4] = {
        {p.dqkv, p.normed1, out->qkv, 3 * D, D, pairs}, {p.dhidden, p.normed2, out->fc1, M, D, some},
        {p.dy, p.active, out->fc2, D, M, some}, {p.dmiddle, p.mixed, out->proj, D, D, some}};
    int64_t each = thread_bytes_backward(b, tokens), tasks = pack_tasks(b, 1), parts = 0;
    for (int s = 0; s < 4; s++) parts += ((sets[s].I + WIDE - 1) / WIDE) * ((sets[s].O + WIDE - 1) / WIDE);
    memset(sums, 0, chunks * all * 4);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int64_t me = 0;
#ifdef _OPENMP
        me = omp_get_thread_num();
#endif
        int64_t room = group * tokens;
        char *own = space + me * each;
        bf16 *narrow = (bf16 *)take(&own, room * D * 2), *normed = (bf16 *)take(&own, room * D * 2);
        bf16 *mixed_space = (bf16 *)take(&own, room * D * 2), *hidden_space = (bf16 *)take(&own, room * M * 2);
        bf16 *dhidden = (bf16 *)take(&own, room * M * 2), *active = (bf16 *)take(&own, room * M * 2);
        bf16 *dqkv = (bf16 *)take(&own, room * 3 * D * 2);
        float *dnormed = (float *)take(&own, room * D * 4), *dmiddle = (float *)take(&own, room * D * 4);
        float *dy_space = (float *)take(&own, room * D * 4), *middle_space = (float *)take(&own, room * D * 4);
        float *base_space = (float *)take(&own, room * D * 4);
        float *stats_space = (float *)take(&own, room * 16), *row_space = (float *)take(&own, room * 4);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) pack_task(b, w, task, 1);
        for (int64_t begin = 0; begin < chunks; begin += together) {
            int64_t end = least(begin + together, chunks);
#pragma omp for schedule(dynamic)
            for (int64_t chunk = begin; chunk < end; chunk++) {
                int64_t image = chunk * group, count = least(group, images - image), rows = count * few, full = count * tokens;
                int64_t first = image * tokens, at_some = (chunk - begin) * some, at_all = (chunk - begin) * pairs;
                float *sum = sums + chunk * all;
                const float *grown = first_rows(dy + first * D, count, tokens, few, D * 4, dy_space);
                const float *middle = first_rows(kept.middle + first * D, count, tokens, few, D * 4, middle_space);
                const float *stats = first_rows(kept.stats + first * 4, count, tokens, few, 16, stats_space);
                const bf16 *hidden = first_rows(kept.hidden + first * M, count, tokens, few, M * 2, hidden_space);
                const bf16 *mixed = first_rows(kept.mixed + first * D, count, tokens, few, D * 2, mixed_space);

                const float *factors = row_factors(factors2, image, count, few, row_space);
                for (int64_t row = 0; row < rows; row++)
                    for (int64_t c = 0; c < D; c += LANES)
                        store_bf16(narrow + row * D + c, _mm512_mul_ps(_mm512_loadu_ps(grown + row * D + c),
                                                                       _mm512_set1_ps(factors ? factors[row] : 1.0f)));
                pair_rows(narrow, rows, D, p.dy, capacity, at_some, sum + 4 * D);
                derived(narrow, rows, w.fc2, D, M, b->after, hidden, dhidden, active);
                pair_rows(active, rows, M, p.active, capacity, at_some, NULL);
                pair_rows(dhidden, rows, M, p.dhidden, capacity, at_some, sum + 9 * D);
                floats(dhidden, rows, w.fc1, M, D, dnormed);
                norm_back(middle, dnormed, grown, dmiddle, normed, rows, D, b->norm2_weight, b->norm2_bias, stats + 2, sum + 2 * D);
                pair_rows(normed, rows, D, p.normed2, capacity, at_some, NULL);

                factors = row_factors(factors1, image, count, few, row_space);
                for (int64_t row = 0; row < rows; row++)
                    for (int64_t c = 0; c < D; c += LANES)
                        store_bf16(narrow + row * D + c, _mm512_mul_ps(_mm512_loadu_ps(dmiddle + row * D + c),
                                                                       _mm512_set1_ps(factors ? factors[row] : 1.0f)));
                pair_rows(narrow, rows, D, p.dmiddle, capacity, at_some, sum + 5 * D);
                pair_rows(mixed, rows, D, p.mixed, capacity, at_some, NULL);
                normal(narrow, rows, w.proj, NULL, D, D, normed);
                for (int64_t i = 0; i < count; i++) {
                    for (int64_t row = few; row < tokens; row++) memset(dqkv + (i * tokens + row) * 3 * D, 0, D * 2);
                    for (int64_t head = 0; head < b->heads; head++) {
                        const bf16 *q = kept.qkv + (first + i * tokens) * 3 * D + head * d;
                        bf16 *dq = dqkv + i * tokens * 3 * D + head * d;
                        attend_back(q, q + D, q + 2 * D, normed + i * few * D + head * d,
                                    kept.logsum + (first + i * tokens) * b->heads + head, dq, dq + D, dq + 2 * D, few, tokens, d, 3 * D, D,
                                    b->heads, 1.0f / sqrtf((float)d), own);
                    }
                }
                pair_rows(dqkv, full, 3 * D, p.dqkv, capacity, at_all, sum + 6 * D);
                floats(dqkv, full, w.qkv, 3 * D, D, dnormed);
                const float *base = dmiddle;
                if (few < tokens) {
                    memset(base_space, 0, full * D * 4);
                    for (int64_t i = 0; i < count; i++) memcpy(base_space + i * tokens * D, dmiddle + i * few * D, few * D * 4);
                    base = base_space;
                }
                norm_back(x + first * D, dnormed, base, dx + first * D, normed, full, D, b->norm1_weight, b->norm1_bias,
                          kept.stats + first * 4, sum);
                pair_rows(normed, full, D, p.normed1, capacity, at_all, NULL);
            }
#pragma omp for schedule(dynamic)
            for (int64_t part = 0; part < parts; part++) {
                int64_t left = part;
                int s = 0;
                for (;; s++) {
                    int64_t here = ((sets[s].I + WIDE - 1) / WIDE) * ((sets[s].O + WIDE - 1) / WIDE);
                    if (left < here) break;
                    left -= here;
                }
                if (!sets[s].out) continue;
                int64_t panels = (sets[s].I + WIDE - 1) / WIDE, i = left / panels * WIDE, j = left % panels * WIDE;
                int64_t have = (end - begin - 1) * sets[s].pairs, last = least(group, images - (end - 1) * group);
                have += (last * (s ? few : tokens) + 1) / 2;
                add_gradient(sets[s].a, sets[s].b, capacity, have, sets[s].O, sets[s].I, i, least(i + WIDE, sets[s].O), j, sets[s].out,
                             begin == 0);
            }
        }
    }
    float *to[8] = {out->norm1_weight, out->norm1_bias, out->norm2_weight, out->norm2_bias, out->fc2_bias, out->proj_bias,
                    out->qkv_bias, out->fc1_bias};
    int64_t wide[8] = {D, D, D, D, D, D, 3 * D, M}, offset = 0;
    for (int s = 0; s < 8; offset += wide[s++]) {
        if (!to[s]) continue;
        memcpy(to[s], sums + offset, wide[s] * 4);
        for (int64_t chunk = 1; chunk < chunks; chunk++)
            for (int64_t c = 0; c < wide[s]; c++) to[s][c] += sums[chunk * all + offset + c];
    }
}

#endif
