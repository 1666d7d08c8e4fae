"""The product on real kernels: virtual machines with IMA, device-mapper and a software TPM. See README.md."""
