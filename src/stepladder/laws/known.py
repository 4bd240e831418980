"""What is known of a climb's law before its first run: `FitOptions` for causal and for masked models."""

from dataclasses import replace

from stepladder.laws.estimate import FitOptions

# Shannon (1951) bounded English by 0.6 and 1.3 bits a letter, 0.883 +- 30 % at 80 %; κ, left free, came out
# at .5 to .7 with forecasts 1 % too low, at 1 they were 1.5 % too high (docs/log.md).
# What climbs on new text missed by beyond their own intervals: `python bench/laws/earlier.py`.
KNOWN = FitOptions(floor=(0.883, 0.302), kappa=(0.75, 0.15), earlier_rms=0.021)
# Shannon's bounds are of the next letter. What a mask hides is told by both sides, of which a third is hidden
# too: three times more or less at 80 %. Rungs of a masked ladder alone say 1.7 (1.0 to 2.4). Two masked
# climbs missed by +2.8 and -6.6 %, 5.1 % in the mean square (docs/log.md, 2026-11-27).
KNOWN_MASKED = replace(KNOWN, floor=(0.883, 0.857), earlier_rms=0.051)
