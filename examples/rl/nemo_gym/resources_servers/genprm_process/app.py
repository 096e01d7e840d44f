"""The entry point that NeMo Gym starts. `configs/genprm_process.yaml` says where `genprm serve` is."""

from genprm.integrations.nemo_gym import ProcessResourcesServer

if __name__ == "__main__":
    ProcessResourcesServer.run_webserver()
