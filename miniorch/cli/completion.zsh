#compdef miniorch
_miniorch() {
    local -a lines names joined
    local line
    lines=("${(@f)$($words[1] __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    for line in $lines; do
        if [[ $line == :files ]]; then
            _files
        elif [[ ${line%%$'\t'*} == *[=:] ]]; then
            joined+=(${line%%$'\t'*})
        else
            names+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        fi
    done
    (( $#joined )) && compadd -S '' -a joined
    (( $#names )) && _describe miniorch names
}
compdef _miniorch miniorch
