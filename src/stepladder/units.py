"""Numbers with units in; short readable text out (and the few conversions that everybody needs)."""

import math

_DECIMAL = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
JOULES_PER_KWH = 3.6e6


def format_count(count: float) -> str:
    """Parameters, tokens, documents: 1234567 -> '1.23M'."""
    for scale, suffix in _DECIMAL:
        if abs(count) >= scale * 0.9995:
            return f"{count / scale:.3g}{suffix}"
    return f"{count:.4g}"


def format_bytes(num_bytes: float) -> str:
    """Bytes in binary units: 1048576 -> '1.00 MiB'."""
    for scale, suffix in _BINARY:
        if abs(num_bytes) >= scale:
            return f"{num_bytes / scale:.3g} {suffix}"
    return f"{num_bytes:.0f} B"


def format_seconds(seconds: float) -> str:
    """Seconds as people say them: 75 -> '1 min 15 s', 90000 -> '25.0 h'."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60:02d} s"
    if seconds < 48 * 3600 * 2:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def format_flops(flops: float) -> str:
    """Floating-point operations: 3.1e13 -> '3.10e+13'."""
    return f"{flops:.2e}"


def format_usd(usd: float) -> str:
    """Money with as many digits as matter: 0.0042 -> '$0.0042'."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.2g}"


def bits_per_byte(nats_per_token: float, tokens: float, num_bytes: float) -> float:
    """Loss that does not depend on the tokenizer: nats per token over tokens that spell `num_bytes`."""
    return nats_per_token * tokens / (num_bytes * math.log(2))
