"""Triton kernels: sums over the pixels of a resized softmax, and their gradient.

No map of all classes at the target's size is ever written. Three passes, each of which interpolates
the low-resolution logits anew, in registers:

1. :func:`forward_kernel`: each block of pixels writes the sums of its pixels per class, and each
   pixel its log-sum-exp and ``-log p_t``.
2. :func:`slopes_kernel`: given the slopes of the sums, each pixel writes two numbers: ``a``, the
   slope of its true logit beside the softmax's share, and ``k``, what the softmax takes off.
3. :func:`gather_kernel`: each low-resolution logit collects the pixels that it was interpolated to,
   so that nothing is added atomically and the bits repeat.

Names: N images, C classes, target H x W, logits h x w with strides sn, sc, sh, sw; ry = h / H and
rx = w / W; BLOCK pixels and CB classes at a time. Rows of sums and slopes, C numbers each: by true
class 0 count, 1 nll, 2 focal, 3 p_t; over all pixels 4 p, 5 log p, 6 p squared.
"""

import triton
import triton.language as tl

NUM_SUMS = tl.constexpr(7)
EPS = tl.constexpr(1.1920929e-07)


@triton.jit
def source(i, scale, small):
    """Of output rows or columns: the lower tap, the upper one and its weight."""
    s = tl.maximum((i.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    low = tl.minimum(s.to(tl.int32), small - 1)
    return low, tl.minimum(low + 1, small - 1), s - low.to(tl.float32)


@triton.jit
def interpolated(low, n, c, mask, y0, y1, ly, x0, x1, lx, sn, sc, sh, sw):
    """Logits [pixels, classes] at the target's size, 0 where masked."""
    base = low + n * sn + c[None, :] * sc
    # A tap of weight 0 is not read: what is there may be NaN.
    right = mask & (lx > 0.0)[:, None]
    under = mask & (ly > 0.0)[:, None]
    a = tl.load(base + y0[:, None] * sh + x0[:, None] * sw, mask, 0.0).to(tl.float32)
    b = tl.load(base + y0[:, None] * sh + x1[:, None] * sw, right, 0.0).to(tl.float32)
    top = a + (b - a) * lx[:, None]
    a = tl.load(base + y1[:, None] * sh + x0[:, None] * sw, under, 0.0).to(tl.float32)
    b = tl.load(base + y1[:, None] * sh + x1[:, None] * sw, right & under, 0.0).to(tl.float32)
    bottom = a + (b - a) * lx[:, None]
    return top + (bottom - top) * ly[:, None]


@triton.jit
def one_minus_p(nll):
    """``1 - p_t`` without cancellation near 0, at least EPS as in the loss itself."""
    near = nll - 0.5 * nll * nll
    return tl.maximum(tl.where(nll < 1e-3, near, 1.0 - tl.exp(-nll)), EPS)


@triton.jit
def pixels(i, target, H, W, h, w, ry, rx, ignore):
    """Of the pixels ``i`` of an image: whether it has them, whether they count, their class ids,
    and the rows and columns of the low-resolution logits that they lie between."""
    inside = i < H * W
    y0, y1, ly = source(i // W, ry, h)
    x0, x1, lx = source(i % W, rx, w)
    t = tl.load(target + i, inside, 0).to(tl.int32)
    return inside, inside & (t != ignore), t, y0, y1, ly, x0, x1, lx


@triton.jit
def forward_kernel(
    low, target, lse_out, nll_out, partial, C, H, W, h, w, sn, sc, sh, sw, ry, rx, ignore, gamma,
    BLOCK: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    n, pid = tl.program_id(1), tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    inside, valid, t, y0, y1, ly, x0, x1, lx = pixels(
        i, target + n * H * W, H, W, h, w, ry, rx, ignore
    )
    t = tl.where(valid, t, 0)
    # Log-sum-exp and the true class's logit, some classes at a time.
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    true = tl.zeros((BLOCK,), tl.float32)
    for c0 in range(0, C, CB):
        c = c0 + tl.arange(0, CB)
        mask = valid[:, None] & (c < C)[None, :]
        z = interpolated(low, n, c, mask, y0, y1, ly, x0, x1, lx, sn, sc, sh, sw)
        z = tl.where((c < C)[None, :], z, -float("inf"))
        new = tl.maximum(top, tl.max(z, 1))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(z - new[:, None]), 1)
        top = new
        true += tl.sum(tl.where(c[None, :] == t[:, None], z, 0.0), 1)
    lse = top + tl.log(total)
    tl.store(lse_out + n * H * W + i, lse, inside)
    nll = tl.where(valid, lse - true, 0.0)
    # An id that is no class makes the loss NaN; looking at it on the host would wait.
    nll = tl.where(valid & ((t < 0) | (t >= C)), float("nan"), nll)
    tl.store(nll_out + n * H * W + i, nll, inside)
    p_true = tl.exp(-nll)
    focal = tl.exp(gamma * tl.log(one_minus_p(nll))) * nll
    bad = tl.sum(tl.where(nll != nll, 1.0, 0.0), 0) > 0
    # Sums per class.
    out = partial + (n * tl.num_programs(0) + pid) * NUM_SUMS * C
    for c0 in range(0, C, CB):
        c = c0 + tl.arange(0, CB)
        mask = valid[:, None] & (c < C)[None, :]
        z = interpolated(low, n, c, mask, y0, y1, ly, x0, x1, lx, sn, sc, sh, sw)
        log_p = tl.where(mask, z - lse[:, None], 0.0)
        p = tl.where(mask, tl.exp(log_p), 0.0)
        is_true = valid[:, None] & (c[None, :] == t[:, None])
        count = tl.sum(tl.where(is_true, 1.0, 0.0), 0)
        tl.store(out + c, tl.where(bad, float("nan"), count), c < C)
        tl.store(out + C + c, tl.sum(tl.where(is_true, nll[:, None], 0.0), 0), c < C)
        tl.store(out + 2 * C + c, tl.sum(tl.where(is_true, focal[:, None], 0.0), 0), c < C)
        tl.store(out + 3 * C + c, tl.sum(tl.where(is_true, p_true[:, None], 0.0), 0), c < C)
        tl.store(out + 4 * C + c, tl.sum(p, 0), c < C)
        tl.store(out + 5 * C + c, tl.sum(log_p, 0), c < C)
        tl.store(out + 6 * C + c, tl.sum(p * p, 0), c < C)


@triton.jit
def slopes_kernel(
    low, target, lse_in, nll_in, slopes, a_out, k_out,
    C, H, W, h, w, sn, sc, sh, sw, ry, rx, ignore, gamma,
    BLOCK: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    n, pid = tl.program_id(1), tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    inside, valid, t, y0, y1, ly, x0, x1, lx = pixels(
        i, target + n * H * W, H, W, h, w, ry, rx, ignore
    )
    known = valid & (t >= 0) & (t < C)
    t = tl.where(known, t, 0)
    lse = tl.load(lse_in + n * H * W + i, inside, 0.0)
    nll = tl.load(nll_in + n * H * W + i, inside, 0.0)
    inner = tl.zeros((BLOCK,), tl.float32)
    for c0 in range(0, C, CB):
        c = c0 + tl.arange(0, CB)
        mask = valid[:, None] & (c < C)[None, :]
        z = interpolated(low, n, c, mask, y0, y1, ly, x0, x1, lx, sn, sc, sh, sw)
        p = tl.where(mask, tl.exp(z - lse[:, None]), 0.0)
        of_p = tl.load(slopes + 4 * C + c, c < C, 0.0)[None, :]
        of_log_p = tl.load(slopes + 5 * C + c, c < C, 0.0)
        of_square = tl.load(slopes + 6 * C + c, c < C, 0.0)[None, :]
        inner += tl.sum(p * (of_p + 2.0 * of_square * p), 1) + tl.sum(of_log_p, 0)
    p_true = tl.exp(-nll)
    q = one_minus_p(nll)
    q_before = tl.exp((gamma - 1.0) * tl.log(q))
    # d((1 - p_t)^gamma (-log p_t)) / d log p_t
    of_focal = -q_before * q - gamma * q_before * p_true * nll
    a = (
        -tl.load(slopes + C + t)
        + tl.load(slopes + 2 * C + t) * of_focal
        + tl.load(slopes + 3 * C + t) * p_true
    )
    a = tl.where(known, a, 0.0)
    tl.store(a_out + n * H * W + i, a, inside)
    tl.store(k_out + n * H * W + i, tl.where(valid, a + inner, 0.0), inside)


@triton.jit
def gather_kernel(
    low, target, lse_in, a_in, k_in, slopes, grad,
    C, H, W, h, w, sn, sc, sh, sw, ry, rx, ignore,
    KY: tl.constexpr, KX: tl.constexpr, BLOCK: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    n, pid = tl.program_id(1), tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    inside = i < h * w
    y, x = i // w, i % w
    c = tl.program_id(2) * CB + tl.arange(0, CB)
    mask = inside[:, None] & (c < C)[None, :]
    # The logits around (m: one before, 0: at, p: one after; first y, then x).
    base = low + n * sn + c[None, :] * sc
    ym, yp = tl.maximum(y - 1, 0), tl.minimum(y + 1, h - 1)
    xm, xp = tl.maximum(x - 1, 0), tl.minimum(x + 1, w - 1)
    mm = tl.load(base + ym[:, None] * sh + xm[:, None] * sw, mask, 0.0).to(tl.float32)
    m0 = tl.load(base + ym[:, None] * sh + x[:, None] * sw, mask, 0.0).to(tl.float32)
    mp = tl.load(base + ym[:, None] * sh + xp[:, None] * sw, mask, 0.0).to(tl.float32)
    zm = tl.load(base + y[:, None] * sh + xm[:, None] * sw, mask, 0.0).to(tl.float32)
    z0 = tl.load(base + y[:, None] * sh + x[:, None] * sw, mask, 0.0).to(tl.float32)
    zp = tl.load(base + y[:, None] * sh + xp[:, None] * sw, mask, 0.0).to(tl.float32)
    pm = tl.load(base + yp[:, None] * sh + xm[:, None] * sw, mask, 0.0).to(tl.float32)
    p0 = tl.load(base + yp[:, None] * sh + x[:, None] * sw, mask, 0.0).to(tl.float32)
    pp = tl.load(base + yp[:, None] * sh + xp[:, None] * sw, mask, 0.0).to(tl.float32)
    of_p = tl.load(slopes + 4 * C + c, c < C, 0.0)[None, :]
    of_log_p = tl.load(slopes + 5 * C + c, c < C, 0.0)[None, :]
    of_square = tl.load(slopes + 6 * C + c, c < C, 0.0)[None, :]
    first_y = tl.maximum(tl.ceil((y.to(tl.float32) - 0.5) / ry - 0.5).to(tl.int32), 0)
    first_x = tl.maximum(tl.ceil((x.to(tl.float32) - 0.5) / rx - 0.5).to(tl.int32), 0)
    acc = tl.zeros((BLOCK, CB), tl.float32)
    for dy in range(KY):
        Y = first_y + dy
        y0, y1, ly = source(Y, ry, h)
        wy = tl.where(y0 == y, 1.0 - ly, 0.0) + tl.where(y1 == y, ly, 0.0)
        wy = tl.where(Y < H, wy, 0.0)
        up, part = (y0 < y)[:, None], ly[:, None]
        down = part > 0.0
        vm = tl.where(up, mm + (zm - mm) * part, tl.where(down, zm + (pm - zm) * part, zm))
        v0 = tl.where(up, m0 + (z0 - m0) * part, tl.where(down, z0 + (p0 - z0) * part, z0))
        vp = tl.where(up, mp + (zp - mp) * part, tl.where(down, zp + (pp - zp) * part, zp))
        for dx in range(KX):
            X = first_x + dx
            x0, x1, lx = source(X, rx, w)
            wx = tl.where(x0 == x, 1.0 - lx, 0.0) + tl.where(x1 == x, lx, 0.0)
            use = inside & (X < W) & (wy * wx > 0.0)
            at = n * H * W + Y * W + X
            t = tl.load(target + at, use, 0).to(tl.int32)
            use = use & (t != ignore)
            left = (x0 < x)[:, None]
            part_x = lx[:, None]
            on = tl.where(part_x > 0.0, v0 + (vp - v0) * part_x, v0)
            z = tl.where(left, vm + (v0 - vm) * part_x, on)
            lse = tl.load(lse_in + at, use, 0.0)
            a = tl.load(a_in + at, use, 0.0)
            k = tl.load(k_in + at, use, 0.0)
            p = tl.exp(tl.where(use[:, None], z - lse[:, None], 0.0))
            dz = p * (of_p + 2.0 * of_square * p - k[:, None]) + of_log_p
            dz += tl.where(c[None, :] == t[:, None], a[:, None], 0.0)
            acc += tl.where(use[:, None], (wy * wx)[:, None] * dz, 0.0)
    place = grad + n * sn + c[None, :] * sc + y[:, None] * sh + x[:, None] * sw
    tl.store(place, acc.to(grad.dtype.element_ty), mask)
