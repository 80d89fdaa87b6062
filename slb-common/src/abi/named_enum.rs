//! Enumerations whose values index an array in a map, and whose names users see.

/// Defines an enumeration numbered from 0, with the list of its values and their names.
macro_rules! named_enum {
    (
        $(#[$about:meta])*
        enum $type:ident:
        $($(#[$doc:meta])* $variant:ident = $name:literal,)+
    ) => {
        $(#[$about])*
        #[repr(u8)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type {
            $($(#[$doc])* $variant,)+
        }

        impl $type {
            /// All values, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that users see.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

pub(super) use named_enum;
