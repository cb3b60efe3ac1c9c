// Scalar functions that WGSL lacks, or whose error it leaves too large (WGSL, 15.7.4:
// log, sin and cos have absolute bounds, pow is undefined for negative bases, min and
// max may drop NaN). Prefix: f for f32, i for i32, u for u32, b for bool. lower.py
// takes what a program uses; declarations are separated by empty lines.
//
// Bounds are in ulp of the exact result, for every input; denormal results may be
// flushed. Polynomials were fitted by reweighted least squares (Lawson) to the
// functions named. NaN, infinities and signs are tested in the bits: compilers may
// assume x == x.

// zero() is 0, read from a uniform so that no compiler knows: WGSL refuses constants
// that are not finite, and compilers may assume that there are none.
fn f_inf() -> f32 { return bitcast<f32>(0x7f800000u | zero()); }

fn f_nan() -> f32 { return bitcast<f32>(0x7fc00000u | zero()); }

// x, hidden from compilers that reassociate: Mesa 25 turns (x - n a) - n b into
// x - n (a + b), which undoes a constant given in two parts.
fn f_keep(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) | zero()); }

fn f_isnan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }

fn f_isinf(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u; }

fn f_isfinite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) < 0x7f800000u; }

fn f_ne(a: f32, b: f32) -> bool { return a != b || f_isnan(a) || f_isnan(b); }

// |x| with the sign of s.
fn f_copysign(x: f32, s: f32) -> f32 {
    let sign = bitcast<u32>(s) & 0x80000000u;
    return bitcast<f32>((bitcast<u32>(x) & 0x7fffffffu) | sign);
}

fn f_is_negative(x: f32) -> bool { return bitcast<u32>(x) >> 31u == 1u; }

fn f_sign(x: f32) -> f32 {
    if (f_isnan(x)) { return x; }
    return select(0.0, f_copysign(1.0, x), f_to_b(x));
}

fn f_maximum(a: f32, b: f32) -> f32 {
    if (f_isnan(a)) { return a; }
    if (f_isnan(b)) { return b; }
    return select(b, a, a > b);
}

fn f_minimum(a: f32, b: f32) -> f32 {
    if (f_isnan(a)) { return a; }
    if (f_isnan(b)) { return b; }
    return select(b, a, a < b);
}

// ---- casts

// Truncates, saturates; NaN is 0.
fn f_to_i(x: f32) -> i32 {
    if (f_isnan(x)) { return 0; }
    if (x >= 2147483648.0) { return 2147483647; }
    return i32(max(x, -2147483648.0));
}

// Truncates, saturates; NaN is 0.
fn f_to_u(x: f32) -> u32 {
    if (f_isnan(x)) { return 0u; }
    if (x >= 4294967296.0) { return 0xffffffffu; }
    return u32(max(x, 0.0));
}

// By the bits: a denormal is not zero, even where arithmetic flushes it.
fn f_to_b(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) != 0u; }

fn f_to_i_checked(x: f32) -> i32 {
    if (f_isnan(x)) { fault(2u, 0u, 0u, 0u); }
    return f_to_i(x);
}

fn f_to_u_checked(x: f32) -> u32 {
    if (f_isnan(x)) { fault(2u, 0u, 0u, 0u); }
    return f_to_u(x);
}

// i, or i + n where i < 0; a fault, and 0, where that is outside [0, n).
fn i_wrap_index(i: i32, n: i32) -> i32 {
    let at = select(i, i + n, i < 0);
    if (at < 0 || at >= n) {
        fault(1u, bitcast<u32>(i), bitcast<u32>(n), 0u);
        return 0;
    }
    return at;
}

fn u_wrap_index(i: u32, n: u32) -> u32 {
    if (i >= n) {
        fault(1u, i, n, 1u);
        return 0u;
    }
    return i;
}

// ---- integers

// Rounds down; x / 0 is 0; INT_MIN / -1 wraps.
fn i_floordiv(x: i32, y: i32) -> i32 {
    if (y == 0) { return 0; }
    if (y == -1) { return 0 - x; }
    let q = x / y;
    return select(q, q - 1, q * y != x && (x < 0) != (y < 0));
}

// Has the sign of y; x mod 0 is 0.
fn i_mod(x: i32, y: i32) -> i32 {
    if (y == 0 || y == -1) { return 0; }
    let r = x - x / y * y;
    return select(r, r + y, r != 0 && (r < 0) != (y < 0));
}

fn u_floordiv(x: u32, y: u32) -> u32 {
    if (y == 0u) { return 0u; }
    return x / y;
}

fn u_mod(x: u32, y: u32) -> u32 {
    if (y == 0u) { return 0u; }
    return x % y;
}

fn i_sign(x: i32) -> i32 { return sign(x); }

fn u_sign(x: u32) -> u32 { return min(x, 1u); }

fn u_pow(x: u32, y: u32) -> u32 {
    var result = 1u;
    var base = x;
    for (var e = y; e > 0u; e >>= 1u) {
        if ((e & 1u) == 1u) { result *= base; }
        base *= base;
    }
    return result;
}

// Wraps; a negative power is 1 / x^-y towards zero, and 0 for x = 0.
fn i_pow(x: i32, y: i32) -> i32 {
    if (y >= 0) { return bitcast<i32>(u_pow(bitcast<u32>(x), u32(y))); }
    if (x == 1) { return 1; }
    if (x == -1) { return select(1, -1, (y & 1) == 1); }
    return 0;
}

fn i_shl(x: i32, n: i32) -> i32 {
    return select(x << (u32(n) & 31u), 0, u32(n) >= 32u);
}

fn u_shl(x: u32, n: u32) -> u32 { return select(x << (n & 31u), 0u, n >= 32u); }

fn i_shr(x: i32, n: i32) -> i32 { return x >> min(u32(n), 31u); }

fn u_shr(x: u32, n: u32) -> u32 { return select(x >> (n & 31u), 0u, n >= 32u); }

// The upper half of the 64-bit product, by halves of 16 bits.
fn u_mulhi(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let middle = ah * bl + ((al * bl) >> 16u);
    let low = al * bh + (middle & 0xffffu);
    return ah * bh + (middle >> 16u) + (low >> 16u);
}

// ---- rounding, remainders

// 2^n as two factors, so that neither overflows: n in [-252, 254].
fn f_scale(x: f32, n: i32) -> f32 {
    let half = n >> 1u;
    let a = bitcast<f32>(u32(half + 127) << 23u);
    let b = bitcast<f32>(u32(n - half + 127) << 23u);
    return x * a * b;
}

// (m, e) with |x| = m 2^e, m an integer below 2^24. In integers, so denormals survive.
fn f_split(x: f32) -> vec2<u32> {
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    if (bits < 0x800000u) { return vec2<u32>(bits, 1u); }
    return vec2<u32>((bits & 0x7fffffu) | 0x800000u, bits >> 23u);
}

// (r, 1 if it is not 0 even where it is flushed) with r = x - y trunc(x / y), exact:
// long division of the integer significands, 8 bits a turn.
fn f_fmod(x: f32, y: f32) -> vec2<f32> {
    if (f_isnan(x) || f_isnan(y) || f_isinf(x) || !f_to_b(y)) {
        return vec2<f32>(f_nan(), 0.0);
    }
    let b = f_split(y);
    let a = f_split(x);
    if (f_isinf(y) || a.y < b.y) { return vec2<f32>(x, f32(f_to_b(x))); }
    var m = a.x % b.x;
    for (var e = a.y - b.y; e > 0u;) {
        let shift = min(e, 8u);
        m = (m << shift) % b.x;
        e -= shift;
    }
    let r = f_copysign(f_scale(f32(m), i32(b.y) - 150), x);
    return vec2<f32>(r, f32(m != 0u));
}

// Remainder with the sign of y, as Python has it. Below 1 ulp.
fn f_mod(x: f32, y: f32) -> f32 {
    let r = f_fmod(x, y);
    if (f_isnan(r.x)) { return r.x; }
    if (r.y == 0.0) { return f_copysign(0.0, y); }
    return select(r.x, r.x + y, f_is_negative(r.x) != f_is_negative(y));
}

// floor(x / y) from the exact remainder, as NumPy has it; the nearest integer, below 3
// ulp where the quotient has more than 24 bits.
fn f_floordiv(a: f32, b: f32) -> f32 {
    // Away from denormals, where the remainder would be flushed.
    let scale = select(1.0, 18446744073709551616.0, max(abs(a), abs(b)) < 1.0);
    let x = a * scale;
    let y = b * scale;
    if (!f_to_b(y)) { return x / y; }
    let r = f_fmod(x, y);
    if (f_isnan(r.x)) { return r.x; }
    var q = (x - r.x) / y;
    if (r.y != 0.0 && f_is_negative(x) != f_is_negative(y)) { q -= 1.0; }
    return select(round(q), f_copysign(0.0, x / y), q == 0.0);
}

// ---- roots: 2.5 ulp by WGSL's rules, correctly rounded on most drivers

fn f_sqrt(x: f32) -> f32 {
    if (f_is_negative(x) && f_to_b(x)) { return f_nan(); }
    return select(sqrt(x), x, f_isinf(x));
}

fn f_rsqrt(x: f32) -> f32 {
    if (f_is_negative(x) && f_to_b(x)) { return f_nan(); }
    if (f_isinf(x)) { return 0.0; }
    return 1.0 / sqrt(x);
}

// ---- random words

// counter + n, of 64 bits each, the lower half first.
fn philox_advance(counter: vec2<u32>, n: vec2<u32>) -> vec2<u32> {
    let low = counter.x + n.x;
    return vec2<u32>(low, counter.y + n.y + select(0u, 1u, low < n.x));
}

// Philox4x32-10; Salmon, Moraes, Dror & Shaw, SC11.
fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        c = vec4<u32>(
            u_mulhi(0xcd9e8d57u, c.z) ^ c.y ^ k.x,
            0xcd9e8d57u * c.z,
            u_mulhi(0xd2511f53u, c.x) ^ c.w ^ k.y,
            0xd2511f53u * c.x,
        );
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// ---- exponentials

// exp(r) - 1 on |r| <= ln(2) / 2, 0.7 ulp.
fn f_expm1_core(r: f32) -> f32 {
    let q = fma(fma(fma(0.0013946552, r, 0.008366644), r, 0.04166628), r, 0.16666542);
    return fma(r * r, fma(q, r, 0.5), r);
}

// (n, exp(r) - 1) with x = n ln(2) + r. ln(2) in two parts, the first of 15 bits, so
// that n times it is exact, fused or not (Cody & Waite, 1980). |x| <= 200.
fn f_exp_parts(x: f32) -> vec2<f32> {
    let n = round(x * 1.442695041);
    let r = fma(n, -1.4286068e-06, f_keep(fma(n, -0.693145751953125, x)));
    return vec2<f32>(n, f_expm1_core(r));
}

// 2^k exp(x), 1 ulp.
fn f_exp_times(x: f32, k: i32) -> f32 {
    if (f_isnan(x)) { return x; }
    if (x > 90.0) { return f_inf(); }
    if (x < -105.0) { return 0.0; }
    let parts = f_exp_parts(x);
    return f_scale(1.0 + parts.y, i32(parts.x) + k);
}

// 1 ulp.
fn f_exp(x: f32) -> f32 { return f_exp_times(x, 0); }

// 2 ulp: 2^n (exp(r) - 1) + (2^n - 1).
fn f_expm1(x: f32) -> f32 {
    if (f_isnan(x) || !f_to_b(x)) { return x; }
    if (abs(x) < 0.00012207031) { return fma(x * x, 0.5, x); }
    if (x > 88.0) { return f_exp(x); }
    if (x < -18.0) { return -1.0; }
    let parts = f_exp_parts(x);
    let scale = f_scale(1.0, i32(parts.x));
    return fma(scale, parts.y, scale - 1.0);
}

// ---- logarithms

// (k, bits of m) with x = 2^k m, m in [sqrt(1/2), sqrt(2)), for positive finite x. A
// denormal is read as an integer, so that it survives where arithmetic flushes it.
fn f_log_parts(x: f32) -> vec2<i32> {
    var bits = bitcast<u32>(x);
    var k = 0;
    if (bits < 0x800000u) {
        bits = bitcast<u32>(f32(bits));
        k = -149;
    }
    let shifted = bitcast<i32>(bits) - 0x3f3504f3;
    return vec2<i32>(k + (shifted >> 23u), (shifted & 0x7fffff) + 0x3f3504f3);
}

// log(1 + f) - f + f^2 / 2 for 1 + f in [sqrt(1/2), sqrt(2)]: with s = f / (2 + f) it
// is s (f^2 / 2 + R(s^2)), R = log((1 + s) / (1 - s)) / s - 2 (as in fdlibm, Ng 1993).
fn f_log_tail(f: f32) -> f32 {
    let s = f / (2.0 + f);
    let z = s * s;
    let r = z * fma(fma(fma(0.23582645, z, 0.28537285), z, 0.40000334), z, 0.6666666);
    return s * fma(0.5 * f, f, r);
}

// k ln(2) + log(1 + f) + c; ln(2) in two parts, the first of 15 bits.
fn f_log_sum(k: f32, f: f32, c: f32) -> f32 {
    let low = fma(k, 1.4286068e-06, c) + f_log_tail(f);
    return fma(k, 0.693145751953125, f_keep(f - (0.5 * f * f - low)));
}

// The result for x = 0, negative, infinite or NaN.
fn f_log_special(x: f32) -> f32 {
    if (!f_to_b(x)) { return -f_inf(); }
    return select(x, f_nan(), f_is_negative(x));
}

fn f_log_is_special(x: f32) -> bool {
    let bits = bitcast<u32>(x);
    return bits == 0u || bits >= 0x7f800000u;
}

// 2 ulp.
fn f_log(x: f32) -> f32 {
    if (f_log_is_special(x)) { return f_log_special(x); }
    let parts = f_log_parts(x);
    return f_log_sum(f32(parts.x), bitcast<f32>(parts.y) - 1.0, 0.0);
}

// 3 ulp.
fn f_log2(x: f32) -> f32 {
    if (f_log_is_special(x)) { return f_log_special(x); }
    let parts = f_log_parts(x);
    let f = bitcast<f32>(parts.y) - 1.0;
    let y = f - (0.5 * f * f - f_log_tail(f));
    return f32(parts.x) + fma(y, 1.925963e-08, y * 1.4426950216);
}

// 3 ulp. With u = 1 + x rounded, log(1 + x) = log(u) + (x - (u - 1)) / u.
fn f_log1p(x: f32) -> f32 {
    if (f_isnan(x) || !f_to_b(x)) { return x; }
    if (x <= -1.0) { return select(f_nan(), -f_inf(), x == -1.0); }
    if (abs(x) < 0.00012207031) { return fma(x * x, -0.5, x); }
    if (x > -0.29 && x < 0.41) { return x - (0.5 * x * x - f_log_tail(x)); }
    if (x > 16777216.0) { return f_log(x); }
    let u = f_keep(1.0 + x);
    let c = select(x - f_keep(u - 1.0), 1.0 - f_keep(u - x), x > 1.0) / u;
    let parts = f_log_parts(u);
    return f_log_sum(f32(parts.x), bitcast<f32>(parts.y) - 1.0, c);
}

// ---- power

// x with its last 12 bits cleared: products of two such are exact.
fn f_head(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u); }

// log2(x) as the sum of two floats, the first of 12 bits; relative error 2^-31.
// Positive finite x. s = (m - 1) / (m + 1) is kept in two parts, log2(m) = 2 / ln(2)
// atanh(s).
fn f_log2_pair(x: f32) -> vec2<f32> {
    let parts = f_log_parts(x);
    let k = f32(parts.x);
    let m = bitcast<f32>(parts.y);
    let f = m - 1.0;
    let d = m + 1.0;
    let d_head = f_head(d);
    let d_rest = m - f_keep(d_head - 1.0);
    let s = f / d;
    let s_head = f_head(s);
    let s_rest = (f_keep(f - s_head * d_head) - s_head * d_rest) / d;
    let z = s * s;
    let t = fma(fma(fma(0.117913224, z, 0.14268643), z, 0.20000167), z, 0.3333333);
    let high = 2.884765625 * s_head;
    let low = fma(0.00062445678, s_head, 2.885390082 * fma(s * z, t, s_rest));
    let head = f_head(k + high + low);
    return vec2<f32>(head, low - (f_keep(head - k) - high));
}

// x^y for positive finite x and any y but NaN, 2 ulp.
fn f_pow_positive(x: f32, y: f32) -> f32 {
    let log = f_log2_pair(x);
    // |log2(x)| is 0 or above 2^-24: a larger y changes nothing, and can't overflow
    // here.
    let e = clamp(y, -1.0e12, 1.0e12);
    let e_head = f_head(e);
    let high = e_head * log.x;
    let low = fma(e - e_head, log.x, e * log.y);
    let z = high + low;
    if (z >= 128.5) { return f_inf(); }
    if (z < -151.0) { return 0.0; }
    let n = round(z);
    let p = f_expm1_core((f_keep(high - n) + low) * 0.6931471806);
    return f_scale(1.0 + p, i32(n));
}

// As C's pow, 2 ulp.
fn f_pow(x: f32, y: f32) -> f32 {
    if (!f_to_b(y) || x == 1.0) { return 1.0; }
    if (f_isnan(x) || f_isnan(y)) { return f_nan(); }
    let size = abs(y);
    let is_integer = size >= 8388608.0 || (size >= 1.0 && trunc(size) == size);
    // 2^24 and above are even.
    let is_odd = is_integer && (u32(min(size, 16777216.0)) & 1u) == 1u;
    let base = abs(x);
    var result = 1.0;
    if (!f_to_b(x) || f_isinf(x)) {
        result = select(0.0, f_inf(), f_isinf(x) == (y > 0.0));
    } else {
        if (f_is_negative(x) && !is_integer) { return f_nan(); }
        result = f_pow_positive(base, y);
    }
    return select(result, -result, f_is_negative(x) && is_odd);
}

// ---- circular functions

// Words of 2 / pi after the point, with a word of zeros before.
fn u_two_over_pi(i: u32) -> u32 {
    switch (i) {
        case 1u: { return 0xa2f9836eu; }
        case 2u: { return 0x4e441529u; }
        case 3u: { return 0xfc2757d1u; }
        case 4u: { return 0xf534ddc0u; }
        case 5u: { return 0xdb629599u; }
        case 6u: { return 0x3c439041u; }
        case 7u: { return 0xfe5163abu; }
        default: { return 0u; }
    }
}

fn u_funnel(high: u32, low: u32, shift: u32) -> u32 {
    return select((high << shift) | (low >> ((32u - shift) & 31u)), high, shift == 0u);
}

// (r, quadrant) with x = quadrant pi / 2 + r, |r| <= pi / 4, for |x| >= 512: the window
// of 2 / pi that matters, times the significand, in integers (Payne & Hanek, 1983).
fn f_reduce_large(x: f32) -> vec2<f32> {
    let parts = f_split(x);
    // Bits of the table before the one of weight 2 in x * 2 / pi; parts.y - 150 >= -14.
    let skip = parts.y - 120u;
    let shift = skip & 31u;
    let first = skip >> 5u;
    let t1 = u_two_over_pi(first + 1u);
    let t2 = u_two_over_pi(first + 2u);
    let w0 = u_funnel(u_two_over_pi(first), t1, shift);
    let w1 = u_funnel(t1, t2, shift);
    let w2 = u_funnel(t2, u_two_over_pi(first + 3u), shift);
    let low = parts.x * w2;
    let carry = u_mulhi(parts.x, w2);
    let middle = parts.x * w1 + carry;
    let top = parts.x * w0 + u_mulhi(parts.x, w1) + select(0u, 1u, middle < carry);
    var a = (top << 2u) | (middle >> 30u);
    var b = (middle << 2u) | (low >> 30u);
    let is_negative = (a >> 31u) == 1u;
    if (is_negative) {
        b = ~b + 1u;
        a = ~a + select(0u, 1u, b == 0u);
    }
    let zeros = select(countLeadingZeros(a), 32u + countLeadingZeros(b), a == 0u);
    let bits = select(u_funnel(a, b, zeros & 31u), b << (zeros & 31u), zeros >= 32u);
    let r = f_scale(f32(bits) * 1.5707963268, -32 - i32(zeros));
    let quadrant = f32(((top + 0x20000000u) >> 30u) & 3u);
    let signed = vec2<f32>(select(r, -r, is_negative), quadrant);
    return select(signed, vec2<f32>(-signed.x, 4.0 - quadrant), f_is_negative(x));
}

// (r, quadrant as an integer). Below 512 pi / 2 is taken in three parts of 15 bits and
// one of 24, so that n times each of the first three is exact, fused or not.
fn f_reduce(x: f32) -> vec2<f32> {
    if (abs(x) >= 512.0) { return f_reduce_large(x); }
    let n = round(x * 0.6366197724);
    var r = f_keep(fma(n, -1.57073974609375, x));
    r = f_keep(fma(n, -5.657970905303955e-05, r));
    r = f_keep(fma(n, -9.920881893776823e-10, r));
    return vec2<f32>(fma(n, -5.390302529957765e-15, r), n);
}

// On |r| <= pi / 4, 1 ulp.
fn f_sin_core(r: f32) -> f32 {
    let z = r * r;
    let p = fma(fma(-0.00019516655, z, 0.008332173), z, -0.16666655);
    return fma(r * z, p, r);
}

// On |r| <= pi / 4, 1 ulp.
fn f_cos_core(r: f32) -> f32 {
    let z = r * r;
    let p = fma(fma(2.4437728e-05, z, -0.0013887362), z, 0.041666646);
    return fma(z * z, p, fma(z, -0.5, 1.0));
}

// sin(r + quadrant pi / 2).
fn f_sin_quadrant(r: f32, quadrant: u32) -> f32 {
    let y = select(f_sin_core(r), f_cos_core(r), (quadrant & 1u) == 1u);
    return select(y, -y, (quadrant & 2u) == 2u);
}

// 2 ulp, for every x.
fn f_sin(x: f32) -> f32 {
    if (!f_isfinite(x)) { return f_nan(); }
    if (abs(x) < 0.00024414062) { return x; }
    let reduced = f_reduce(x);
    return f_sin_quadrant(reduced.x, bitcast<u32>(i32(reduced.y)));
}

// 2 ulp, for every x.
fn f_cos(x: f32) -> f32 {
    if (!f_isfinite(x)) { return f_nan(); }
    let reduced = f_reduce(x);
    return f_sin_quadrant(reduced.x, bitcast<u32>(i32(reduced.y)) + 1u);
}

// 4 ulp, for every x.
fn f_tan(x: f32) -> f32 {
    if (!f_isfinite(x)) { return f_nan(); }
    if (abs(x) < 0.00024414062) { return x; }
    let reduced = f_reduce(x);
    let r = reduced.x;
    let z = r * r;
    var p = fma(fma(0.004424833, z, -1.2279023e-05), z, 0.010919236);
    p = fma(fma(p, z, 0.021248586), z, 0.054066755);
    p = fma(fma(p, z, 0.133326), z, 0.33333352);
    let t = fma(r * z, p, r);
    return select(t, -1.0 / t, (i32(reduced.y) & 1) == 1);
}

// (x - 2 floor-like multiple, quadrant): x = quadrant / 2 + r, exact, |r| <= 1 / 4.
fn f_reduce_pi(x: f32) -> vec2<f32> {
    let turn = x - 2.0 * trunc(0.5 * x);
    let n = round(2.0 * turn);
    return vec2<f32>(fma(n, -0.5, turn), n);
}

// sin(pi r + quadrant pi / 2) for |r| <= 1 / 4, 1 ulp; pi in two parts.
fn f_sinpi_quadrant(r: f32, quadrant: u32) -> f32 {
    let z = r * r;
    let p = fma(fma(-0.58946407, z, 2.5498095), z, -5.1677094);
    let s = fma(r, 3.14159274, r * fma(z, p, -8.742278e-08));
    let q = fma(fma(fma(0.23142335, z, -1.3350579), z, 4.0587077), z, -4.934802);
    let y = select(s, fma(z, q, 1.0), (quadrant & 1u) == 1u);
    return select(y, -y, (quadrant & 2u) == 2u);
}

// sin(pi x), 2 ulp.
fn f_sinpi(x: f32) -> f32 {
    if (!f_isfinite(x)) { return f_nan(); }
    let reduced = f_reduce_pi(x);
    let y = f_sinpi_quadrant(reduced.x, bitcast<u32>(i32(reduced.y)));
    return select(y, f_copysign(0.0, x), y == 0.0);
}

// cos(pi x), 2 ulp.
fn f_cospi(x: f32) -> f32 {
    if (!f_isfinite(x)) { return f_nan(); }
    let reduced = f_reduce_pi(x);
    let y = f_sinpi_quadrant(reduced.x, bitcast<u32>(i32(reduced.y)) + 1u);
    return select(y, 0.0, y == 0.0);
}

// ---- inverse circular functions

// asin(x) - x on |x| <= 1 / 2.
fn f_asin_tail(x: f32) -> f32 {
    let z = x * x;
    var p = fma(fma(0.042218547, z, 0.024147611), z, 0.045477096);
    p = fma(fma(p, z, 0.074952416), z, 0.16666754);
    return x * z * p;
}

// 3 ulp. Above 1 / 2: pi / 2 - 2 asin(sqrt((1 - x) / 2)).
fn f_asin(x: f32) -> f32 {
    let a = abs(x);
    if (f_isnan(x) || a > 1.0) { return f_nan(); }
    if (a <= 0.5) {
        return select(x + f_asin_tail(x), x, a < 0.00024414062);
    }
    let s = sqrt(0.5 * (1.0 - a));
    let y = 1.5707963268 - (2.0 * (s + f_asin_tail(s)) + 4.371139e-08);
    return f_copysign(y, x);
}

// 4 ulp.
fn f_acos(x: f32) -> f32 {
    let a = abs(x);
    if (f_isnan(x) || a > 1.0) { return f_nan(); }
    if (a <= 0.5) {
        return 1.5707963268 - (x + (f_asin_tail(x) + 4.371139e-08));
    }
    let s = sqrt(0.5 * (1.0 - a));
    let y = 2.0 * (s + f_asin_tail(s));
    return select(y, 3.1415926536 - (y + 8.742278e-08), f_is_negative(x));
}

// On |x| <= tan(pi / 8), 1 ulp.
fn f_atan_core(x: f32) -> f32 {
    let z = x * x;
    var p = fma(fma(-0.060824864, z, 0.10595638), z, -0.14243802);
    p = fma(fma(p, z, 0.19998488), z, -0.33333316);
    return fma(x * z, p, x);
}

// 2 ulp.
fn f_atan(x: f32) -> f32 {
    if (f_isnan(x)) { return x; }
    let a = abs(x);
    if (a < 0.00024414062) { return x; }
    var y = 0.0;
    if (a > 2.4142136) {
        y = 1.5707963268 - f_atan_core(1.0 / min(a, 1.0e30));
    } else if (a > 0.41421357) {
        y = 0.7853981634 + f_atan_core((a - 1.0) / (a + 1.0));
    } else {
        y = f_atan_core(a);
    }
    return f_copysign(y, x);
}

// The angle of (x, y), 4 ulp; signed zeros and infinities as in C.
fn f_atan2(y: f32, x: f32) -> f32 {
    if (f_isnan(x) || f_isnan(y)) { return f_nan(); }
    var a = abs(y);
    var b = abs(x);
    var angle = 0.0;
    if (f_isinf(a) && f_isinf(b)) {
        angle = 0.7853981634;
    } else if (!f_to_b(a)) {
        angle = 0.0;
    } else if (f_isinf(a) || !f_to_b(b)) {
        angle = 1.5707963268;
    } else if (!f_isinf(b)) {
        angle = f_atan_ratio(a, b);
    }
    angle = select(angle, 3.1415926536 - (angle + 8.742278e-08), f_is_negative(x));
    return f_copysign(angle, y);
}

// atan(a / b) for positive finite a and b, scaled so that the division is in range.
fn f_atan_ratio(a: f32, b: f32) -> f32 {
    let large = max(a, b);
    let up = select(1.0, 16777216.0, large < 1.0e-20);
    let scale = select(up, 0.0625, large > 1.0e30);
    var t = (min(a, b) * scale) / (large * scale);
    let i = bitcast<u32>(a);
    let j = bitcast<u32>(b);
    if (max(i, j) < 0x800000u) { t = f32(min(i, j)) / f32(max(i, j)); }
    let angle = f_atan(t);
    return select(angle, 1.5707963268 - (angle + 4.371139e-08), a > b);
}

// ---- hyperbolic functions

// 2 ulp. From 1 on (e^x - e^-x) / 2, with e^x halved before it overflows.
fn f_sinh(x: f32) -> f32 {
    let a = abs(x);
    if (f_isnan(x) || a < 0.00024414062) { return x; }
    if (a < 1.0) {
        let z = x * x;
        let p = fma(fma(2.8174397e-06, z, 0.00019836066), z, 0.0083333505);
        return fma(x * z, fma(p, z, 0.16666667), x);
    }
    let e = f_exp_times(a, -1);
    return f_copysign(e - select(0.25 / e, 0.0, a > 20.0), x);
}

// 2 ulp.
fn f_cosh(x: f32) -> f32 {
    if (f_isnan(x)) { return x; }
    let a = abs(x);
    let e = f_exp_times(a, -1);
    return e + select(0.25 / e, 0.0, a > 20.0);
}

// 3 ulp.
fn f_tanh(x: f32) -> f32 {
    let a = abs(x);
    if (f_isnan(x) || a < 0.00024414062) { return x; }
    if (a < 0.6) {
        let z = x * x;
        var p = fma(fma(-0.0059058606, z, 0.020805378), z, -0.05378668);
        p = fma(fma(p, z, 0.13331959), z, -0.333333);
        return fma(x * z, p, x);
    }
    // From 9.02 on it rounds to 1.
    let e = f_exp(2.0 * min(a, 10.0));
    return f_copysign(1.0 - 2.0 / (e + 1.0), x);
}

// 3 ulp.
fn f_asinh(x: f32) -> f32 {
    let a = abs(x);
    if (!f_isfinite(x) || a < 0.00024414062) { return x; }
    if (a < 0.5) {
        let z = x * x;
        var p = fma(fma(0.009175371, z, -0.019985622), z, 0.030014496);
        p = fma(fma(fma(p, z, -0.044613443), z, 0.0749989), z, -0.16666666);
        return fma(x * z, p, x);
    }
    if (a > 4096.0) { return f_copysign(f_log(a) + 0.6931471806, x); }
    let z = a * a;
    return f_copysign(f_log1p(a + z / (1.0 + sqrt(1.0 + z))), x);
}

// 4 ulp.
fn f_acosh(x: f32) -> f32 {
    if (f_isnan(x) || x < 1.0) { return f_nan(); }
    if (x > 4096.0) { return f_log(x) + 0.6931471806; }
    let t = x - 1.0;
    return f_log1p(t + sqrt(t * (t + 2.0)));
}

// 4 ulp: log1p(2 x / (1 - x)) / 2.
fn f_atanh(x: f32) -> f32 {
    let a = abs(x);
    if (f_isnan(x) || a > 1.0) { return f_nan(); }
    if (a < 0.00024414062) { return x; }
    if (a == 1.0) { return f_copysign(f_inf(), x); }
    let t = a + a;
    let u = select(t / (1.0 - a), fma(t, a / (1.0 - a), t), a < 0.5);
    return f_copysign(0.5 * f_log1p(u), x);
}

// ---- error function

// 2 ulp. Beyond 0.92 it is 1 - exp(-p(|x|)), p fitted to -log(erfc) (form: Juffa,
// 2016).
fn f_erf(x: f32) -> f32 {
    if (f_isnan(x)) { return x; }
    let a = abs(x);
    // Not as x + 0.128 x, whose second term is flushed where x is nearly denormal.
    if (a < 0.00012207031) { return 1.1283792 * x; }
    if (a < 0.92) {
        let z = x * x;
        var p = fma(fma(8.345225e-05, z, -0.00081374374), z, 0.0052006342);
        p = fma(fma(fma(p, z, -0.02685927), z, 0.11283694), z, -0.37612635);
        return fma(x, fma(p, z, 0.12837917), x);
    }
    let t = min(a, 4.0);
    var p = fma(fma(2.0909556e-05, t, -0.000432303), t, 0.004160527);
    p = fma(fma(fma(p, t, -0.025091497), t, 0.10823662), t, 0.6333867);
    p = fma(fma(p, t, 1.1294951), t, -0.00017055203);
    return f_copysign(1.0 - f_exp(-p), x);
}

// Unsigned integers in the order of the numbers; -0 is 0, NaN is above all.
fn f_order(x: f32) -> u32 {
    let u = bitcast<u32>(x);
    let magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) { return 0xffffffffu; }
    if (magnitude == 0u) { return 0x80000000u; }
    return select(u | 0x80000000u, ~u, u != magnitude);
}

fn i_order(x: i32) -> u32 { return bitcast<u32>(x) ^ 0x80000000u; }

fn u_order(x: u32) -> u32 { return x; }

fn b_order(x: bool) -> u32 { return u32(x); }

// log(exp(a) + exp(b)); 2 ulp of the larger of |a|, |b| and the result.
fn f_logaddexp(a: f32, b: f32) -> f32 {
    if (f_isnan(a) || f_isnan(b)) { return a + b; }
    let high = max(a, b);
    if (f_isinf(high)) { return high; }
    return high + f_log1p(f_exp(min(a, b) - high));
}
