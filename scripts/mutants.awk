# What became of the mutants of each file, from the lists that cargo-mutants writes. Fails if more than 3 in 100 were
# missed. One that does not compile proves nothing and is not counted; one that never ends was noticed.

{
    split($0, place, ":")
    kind = FILENAME
    sub(/\.txt$/, "", kind)
    files[place[1]]
    count[place[1], kind]++
    count["all", kind]++
}

function row(name,    noticed, viable) {
    noticed = count[name, "caught"] + count[name, "timeout"]
    viable = noticed + count[name, "missed"]
    share = viable ? 100 * noticed / viable : 100
    return sprintf("%-24s %6d %6d %7d %6d %9.1f %8d", name, viable, count[name, "caught"], count[name, "timeout"],
        count[name, "missed"], share, count[name, "unviable"])
}

END {
    printf "%-24s %6s %6s %7s %6s %9s %8s\n", "file", "viable", "caught", "endless", "missed", "noticed %", "unviable"
    fflush()
    for (name in files) print row(name) | "sort"
    close("sort")
    print row("all")
    exit share < 97
}
