"""The edge agent: reads training kits over their own protocols and hands batches to the hub."""
