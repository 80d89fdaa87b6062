//! Frames for another station, which a switch floods: they are none of SLB's business, in any mode and from either side.
