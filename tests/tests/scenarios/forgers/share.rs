//! One client that has as many flows as it can, all of them answered: it takes no more than its share of the flow table.
