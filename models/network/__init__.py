"""What a manifest says, done: a network that a site brings needs no code of ours."""
