"""A checkpoint and labelled examples in; a tuned model and its predictions out, through the one loop."""
