//! A world for stories: the real binaries, on free ports, in a folder that vanishes.
