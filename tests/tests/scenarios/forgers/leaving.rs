//! Forged segments for connections whose server gets no new ones: it is disabled, drains, has weight 0, has been removed.
