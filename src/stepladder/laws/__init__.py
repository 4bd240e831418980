"""Observations in; a fitted law, forecasts with intervals that hold (or a refusal), and their scores out."""
