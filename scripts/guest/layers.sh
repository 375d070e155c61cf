# Images with as many layers as a kernel stacks. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # handler, pod, id, log, archives, shell_counter: lib.sh's

layered=localhost/thawd/layers:latest

story_layers() {
    local first
    handler=runc
    check "an image of 500 layers is loaded" thaw image load /lane/images/layers.tar || return
    opens "a pod comes up" layers || return
    first=$pod
    starts "a container of 500 layers runs" deep "$layered" . sh -c "$shell_counter" || return
    is "it sees each layer above the first, and can change them" "499 499" \
        "$(crictl exec -s "$id" sh -c 'ls /layers | wc -l
            echo new >/layers/0; rm /layers/499; ls /layers | wc -l' 2>&1 | xargs)"
    check "it is frozen" freeze "$id" layers || return
    opens "another pod comes up" layers-thawed || return
    thaws "it thaws" deep layers . &&
        is "it has what it changed" "499 new" \
            "$(crictl exec -s "$id" sh -c 'ls /layers | wc -l; cat /layers/0' 2>&1 | xargs)"
    check "both pods are removed" drop "$first" "$pod"
    rm -f "$archives/$handler-layers.tar"
    handler=
}
