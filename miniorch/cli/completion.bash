_miniorch() {
    local words current one
    read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=("")
    current=${words[-1]}
    COMPREPLY=()
    while IFS= read -r one; do
        one=${one%%$'\t'*}
        if [[ $one == :files ]]; then
            compopt -o filenames 2>/dev/null
            while IFS= read -r one; do COMPREPLY+=("$one"); done < <(compgen -f -- "$current")
        else
            [[ $one == *[=:] ]] && compopt -o nospace 2>/dev/null
            COMPREPLY+=("$one")
        fi
    done < <("$1" __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _miniorch miniorch
