"""Every kind of device that a source may have, in any mixture.

Everything of production is named ``leak…`` or carries a UUID that begins with ``1eaa1eaa``.
"""

from __future__ import annotations

from hypothesis import strategies as st

KIND = "<address type='pci' domain='0x0000' bus='0x00' slot='0x{n:02x}' function='0x0'/>"
DEVICES = (
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='/srv/leak/{n}.qcow2'/><target dev='vd{letter}' bus='virtio'/></disk>",
    "<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/leak{n}'/>"
    "<target dev='sd{letter}' bus='scsi'/></disk>",
    "<disk type='file' device='disk'><source file='/srv/leak/{n}.raw'/>"
    "<target dev='hd{letter}' bus='ide'/><shareable/></disk>",
    "<disk type='network' device='disk'><source protocol='nbd' name='leak'>"
    "<host name='leak.example.org' port='10809'/></source>"
    "<target dev='vd{letter}' bus='virtio'/></disk>",
    "<disk type='network' device='disk'><source protocol='iscsi' name='leak/1'>"
    "<host name='leak.example.org' port='3260'/><initiator><iqn name='iqn.leak'/></initiator>"
    "</source><target dev='vd{letter}' bus='virtio'/></disk>",
    "<disk type='nvme' device='disk'><driver name='qemu' type='raw'/>"
    "<source type='pci' managed='yes' namespace='1'>"
    "<address domain='0x0000' bus='0x65' slot='0x00' function='0x0'/></source>"
    "<target dev='vd{letter}' bus='virtio'/></disk>",
    "<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/>"
    "<source type='unix' path='/srv/leak/blk.sock'/><target dev='vd{letter}' bus='virtio'/></disk>",
    "<disk type='dir' device='floppy'><driver name='qemu' type='fat'/><source dir='/srv/leak'/>"
    "<target dev='fd{letter}' bus='fdc'/><readonly/></disk>",
    "<disk type='block' device='lun' rawio='yes'><driver name='qemu' type='raw'/>"
    "<source dev='/dev/leak{n}'><reservations managed='yes'/></source>"
    "<target dev='sd{letter}' bus='scsi'/></disk>",
    "<disk type='file' device='cdrom'><source file='/srv/leak/{n}.iso'/>"
    "<target dev='sd{letter}' bus='sata'/><readonly/></disk>",
    "<disk type='block' device='cdrom'><source dev='/dev/leak-sr0'/>"
    "<target dev='hd{letter}' bus='ide'/><readonly/></disk>",
    "<interface type='network'><mac address='52:54:00:1e:00:{n:02x}'/><source network='leaknet'/>"
    "<model type='virtio'/></interface>",
    "<interface type='bridge'><mac address='52:54:00:1e:00:{n:02x}'/><source bridge='leakbr0'/>"
    "<script path='/srv/leak/up'/><backend tap='/dev/leak-tun' vhost='/dev/leak-v'/></interface>",
    "<interface type='direct'><mac address='52:54:00:1e:00:{n:02x}'/>"
    "<source dev='leak0' mode='vepa'/></interface>",
    "<interface type='ethernet'><mac address='52:54:00:1e:00:{n:02x}'/>"
    "<ip address='192.0.2.7' prefix='24'/><target dev='leak1'/></interface>",
    "<interface type='user'><mac address='52:54:00:1e:00:{n:02x}'/></interface>",
    "<interface type='client'><mac address='52:54:00:1e:00:{n:02x}'/>"
    "<source address='192.0.2.7' port='5558'/></interface>",
    "<interface type='hostdev'><source><address type='pci' domain='0x0000' bus='0x65' slot='0x10' "
    "function='0x0'/></source></interface>",
    "<interface type='vdpa'><source dev='/dev/leak-vdpa'/></interface>",
    "<controller type='scsi' index='{n}' model='virtio-scsi'><driver iothread='1'/></controller>",
    "<controller type='usb' index='{n}' model='qemu-xhci'/>",
    "<controller type='ccid' index='{n}'/>",
    "<serial type='tcp'><source mode='bind' host='leak.example.org' service='4444'/>"
    "<protocol type='raw'/><target port='{n}'/></serial>",
    "<serial type='unix'><source mode='connect' path='/srv/leak/serial'/></serial>",
    "<serial type='udp'><source mode='connect' host='leak.example.org' service='1'/></serial>",
    "<serial type='dev'><source path='/dev/leak-ttyS0'/></serial>",
    "<serial type='pipe'><source path='/srv/leak/pipe'/></serial>",
    "<console type='tcp'><source mode='connect' host='leak.example.org' service='4'/>"
    "<protocol type='raw'/><target type='virtio' port='{n}'/></console>",
    "<parallel type='pty'><target port='{n}'/></parallel>",
    "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>",
    "<channel type='unix'><source mode='bind' path='/srv/leak/{n}'/>"
    "<target type='guestfwd' address='192.0.2.7' port='4600'/></channel>",
    "<smartcard mode='host'/>",
    "<smartcard mode='host-certificates'><certificate>leak1</certificate>"
    "<certificate>leak2</certificate><certificate>leak3</certificate>"
    "<database>/srv/leak/nss</database></smartcard>",
    "<input type='tablet' bus='usb'/>",
    "<input type='passthrough' bus='virtio'><source evdev='/dev/input/leak{n}'/></input>",
    "<input type='evdev'><source dev='/dev/input/leak{n}' grab='all' repeat='on'/></input>",
    "<hub type='usb'/>",
    "<graphics type='vnc' autoport='yes' listen='192.0.2.7' passwd='leak'/>",
    "<graphics type='egl-headless'><gl rendernode='/dev/dri/leak'/></graphics>",
    "<sound model='ich9'><codec type='micro'/></sound>",
    "<audio id='{n}' type='file' path='/srv/leak/sound.wav'/>",
    "<video><driver name='vhostuser'/><model type='virtio' heads='1'/></video>",
    "<video><model type='virtio'><acceleration accel3d='yes' rendernode='/dev/dri/leak'/>"
    "</model></video>",
    "<watchdog model='i6300esb' action='dump'/>",
    "<watchdog model='ib700' action='pause'/>",
    "<hostdev mode='subsystem' type='scsi_host'>"
    "<source protocol='vhost' wwpn='naa.5123456789abcde0'/></hostdev>",
    "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>"
    "<source><address uuid='1eaa1eaa-0009-4000-8000-00000000aaaa'/></source></hostdev>",
    "<redirdev bus='usb' type='unix'><source mode='connect' path='/srv/leak/usb'/></redirdev>",
    "<filesystem type='mount'><source dir='/srv/leak'/><target dir='leak'/></filesystem>",
    "<filesystem type='file'><source file='/srv/leak/fs'/><target dir='leak'/></filesystem>",
    "<lease><lockspace>leak</lockspace><key>leak</key><target path='/srv/leak/lease'/></lease>",
    "<memory model='nvdimm' access='shared'><source><path>/srv/leak/nvdimm</path></source><target>"
    "<size unit='KiB'>524288</size><node>0</node><label><size unit='KiB'>128</size></label>"
    "</target></memory>",
    "<memory model='virtio-pmem' access='shared'><source><path>/srv/leak/pmem</path></source>"
    "<target><size unit='KiB'>524288</size></target></memory>",
    "<nvram><address type='spapr-vio' reg='0x3000'/></nvram>",
    "<panic model='hyperv'/>",
    "<shmem name='leak{n}'><model type='ivshmem-doorbell'/><server path='/srv/leak/s'/></shmem>",
    "<rng model='virtio'><backend model='random'>/dev/leak-hwrng</backend></rng>",
    "<rng model='virtio'><backend model='egd' type='unix'>"
    "<source mode='connect' path='/srv/leak/e'/></backend></rng>",
    "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/leak-t'/></backend></tpm>",
    "<tpm model='tpm-crb'><backend type='external'><source type='unix' mode='connect' "
    "path='/srv/leak/tpm'/></backend></tpm>",
    "<vsock model='virtio'><cid auto='yes' address='{n}'/></vsock>",
    "<iommu model='intel'><driver iotlb='on'/></iommu>",
    "<memballoon model='virtio'/>",
    # Unknown to this libvirt's schema: newer ones have them.
    "<crypto model='virtio' type='qemu'><backend model='lkcf' leak='leak'/></crypto>",
    "<pstore backend='acpi-erst'><path>/srv/leak/pstore</path></pstore>",
    "<interface type='null'><mac address='52:54:00:1e:00:{n:02x}'/><source a='leak'/></interface>",
    "<teleporter to='leak.example.org'/>",
)
TOP_LEVEL = (
    "<bootloader>/srv/leak/pygrub</bootloader>",
    "<memoryBacking><hugepages/><source type='file'/></memoryBacking>",
    "<numatune><memory mode='strict' nodeset='1'/></numatune>",
    "<cputune><vcpupin vcpu='0' cpuset='1'/></cputune>",
    "<blkiotune><device><path>/dev/leak</path><weight>500</weight></device></blkiotune>",
    "<memtune><hard_limit unit='KiB'>1</hard_limit></memtune>",
    "<idmap><uid start='0' target='1000' count='10'/></idmap>",
    "<keywrap><cipher name='aes' state='on'/></keywrap>",
    "<launchSecurity type='sev'><policy>0x1</policy><dhCert>leak</dhCert></launchSecurity>",
    "<sysinfo type='fwcfg'><entry name='opt/leak' file='/srv/leak/ignition'/></sysinfo>",
    "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>"
    "<q:arg value='leak'/></q:commandline>",
    "<q:os xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>leak</q:os>",
    "<seclabel type='static' model='dac' relabel='no'><label>leak:leak</label></seclabel>",
    "<metadata><app:x xmlns:app='https://leak.example.org'>leak</app:x></metadata>",
    "<!-- leak -->",
    "<features><!-- leak --><acpi/><?leak leak?></features>",
    "<?leak leak?>",
    "<newfangled path='/srv/leak'/>",
)
OS = (
    "<os><type arch='x86_64' machine='pc'>hvm</type>{}</os>",
    "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type>{}</os>",
)
OS_PARTS = (
    "<loader type='rom'>/usr/share/seabios/bios.bin</loader>",
    "<loader type='pflash'>/usr/share/OVMF/OVMF.fd</loader>",
    "<nvram>/srv/leak/vars.fd</nvram>",
    "<nvram type='file'><source file='/srv/leak/vars.fd'/></nvram>",
    "<boot dev='hd'/>",
    "<kernel>/srv/leak/vmlinuz</kernel>",
    "<initrd>/srv/leak/initrd</initrd>",
    "<cmdline>root=leak</cmdline>",
    "<dtb>/srv/leak/dtb</dtb>",
    "<acpi><table type='slic'>/srv/leak/slic</table></acpi>",
    "<smbios mode='host'/>",
    "<varstore path='/srv/leak/vars.json'/>",
)


# A domain has at most one of these.
SINGLE = ("<watchdog", "<memballoon", "<iommu", "<nvram", "<vsock", "<tpm")


def kind_or_all(device: str) -> str:
    return next((tag for tag in SINGLE if device.startswith(tag)), device)


@st.composite
def domains(draw: st.DrawFn) -> str:
    single = st.sampled_from([d for d in DEVICES if d.startswith(SINGLE)])
    many = st.sampled_from([d for d in DEVICES if not d.startswith(SINGLE)])
    devices = draw(st.lists(many, max_size=14))
    devices += draw(st.lists(single, unique_by=kind_or_all, max_size=4))
    around = draw(st.lists(st.sampled_from(TOP_LEVEL), unique=True, max_size=5))
    os_parts = draw(st.lists(st.sampled_from(OS_PARTS), unique_by=lambda p: p[:6], max_size=4))
    filled = [
        device.format(n=number, letter=chr(ord("a") + number))
        for number, device in enumerate(devices)
    ]
    return (
        "<domain type='kvm' id='3'><name>leak</name>"
        "<uuid>1eaa1eaa-000a-4000-8000-00000000aaaa</uuid><memory unit='KiB'>524288</memory>"
        f"<vcpu>1</vcpu>{draw(st.sampled_from(OS)).format(''.join(os_parts))}"
        f"{''.join(around)}<devices>{''.join(filled)}</devices></domain>"
    )
