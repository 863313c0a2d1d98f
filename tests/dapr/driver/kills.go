package main

func kills(programs paths, messages int, seed uint64) bool { return false }
